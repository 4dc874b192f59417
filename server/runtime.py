"""The engine's part of the composition root: memory planned, model loaded, tiers joined."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from adapters_store.adapter import SparseAdapter
from adapters_store.each import Each
from server.adapters.background import start_pool
from server.adapters.delta import make_resident
from server.adapters.device import DeviceAdapters
from server.adapters.fused import FusedWeights
from server.adapters.host import HostAdapters
from server.adapters.memory import AdapterMemory
from server.adapters.sharing import share
from server.adapters.sources import Source, StoredAdapter
from server.budget import out_of_memory, plan_budget
from server.choices import FindGpu, choose_device, choose_dtype, choose_kernels
from server.device.found import find_gpu
from server.device.interface import Device
from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.device_runner import DeviceRunner
from server.engine.engine import Engine
from server.engine.fuser import Fuser
from server.engine.page_room import PageRoom
from server.engine.runner import ModelRunner
from server.engine.sequence import Mode
from server.engine.step_inputs import DecodeForm
from server.kernels.interface import Kernels
from server.kernels.recorded import AttentionShape, RecordableKernels
from server.model.checkpoint import Checkpoint
from server.model.kv_cache import KVCache, allocate, bytes_per_page
from server.model.load import load_model
from server.model.phi3 import Phi3
from server.model.text import TextCodec
from server.plan.steps import spare_pages
from server.settings import Settings, SettingsConflict
from server.storage import Report

LOADERS = 2  # threads that read adapters and lay them out
CPU_CACHE_BYTES = 2 << 30

Load = Callable[[str, Each], SparseAdapter]  # reads and verifies a stored adapter


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computes: an engine, and the memory that its adapters are in."""

    engine: Engine
    memory: AdapterMemory
    source: Callable[[str], Source]  # of a stored adapter, by digest
    device: torch.device
    dtype: torch.dtype
    mode: Mode  # of requests that name none
    fuser: Fuser | None  # None where nothing is ever fused


def build_runtime(
    settings: Settings,
    checkpoint: Checkpoint,
    load: Load,
    report: Report,
    find: FindGpu = find_gpu,
) -> Runtime:
    """The engine of `checkpoint`, as the settings say. Raises SettingsConflict."""
    device = choose_device(settings, report, find)
    try:
        return _build(settings, checkpoint, load, report, device)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device, error) from error


def _build(
    settings: Settings, checkpoint: Checkpoint, load: Load, report: Report, device: Device
) -> Runtime:
    dtype = choose_dtype(settings, device)
    if settings.mode != "batched" and settings.quantization != "none":
        raise SettingsConflict("mode", settings.mode, "a quantized base is never fused with")
    kernels, make = choose_kernels(settings, device, dtype)
    config, page_bytes, adapter_bytes = _plan(settings, checkpoint, dtype, kernels, device, report)
    spare = spare_pages(config.max_num_seqs, config.page_size) if device.is_gpu else 0
    num_pages = config.num_pages + spare
    cache = allocate(checkpoint.config, num_pages, config.page_size, dtype, device.place)
    blocks = BlockManager.of(config)
    pool = start_pool("adapters", LOADERS)
    each: Each = partial(share, pool)
    memory = AdapterMemory(
        HostAdapters(settings.max_adapter_bytes_host),
        DeviceAdapters(adapter_bytes),
        kernels,
        pool,
        blocks.lock,
        settings.max_queued_requests,
        make if device.is_gpu else partial(make_resident, each=each),
        each,
    )
    if config.max_lent_pages:
        PageRoom(blocks, page_bytes, cache.forget).connect(memory)
    report(f"loading the weights of {checkpoint.name} as {dtype} on {device.place}")
    model = load_model(checkpoint, dtype, device.place, kernels)
    report("making the kernels ready, which takes some seconds when it is done for the first time")
    kernels.warm_up(weight for _, weight in model.weights.linears())
    runner = _runner(config, checkpoint, model, cache, memory, device)
    eos = checkpoint.eos_token_ids
    engine = Engine(config, runner, TextCodec(checkpoint.tokenizer).decode, eos, blocks)
    return Runtime(
        engine=engine,
        memory=memory,
        source=lambda digest: StoredAdapter(digest, lambda digest: load(digest, each), pool),
        device=device.place,
        dtype=dtype,
        mode=Mode(settings.mode),
        fuser=runner.fuser,
    )


def _runner(
    config: EngineConfig,
    checkpoint: Checkpoint,
    model: Phi3,
    cache: KVCache,
    memory: AdapterMemory,
    device: Device,
) -> ModelRunner:
    """Of a CPU, or of any device for plain torch; of a GPU with all its steps recorded."""
    eos, kernels = checkpoint.eos_token_ids, model.kernels
    fuser = _fuser(model, memory) if config.may_fuse else None
    if not isinstance(kernels, RecordableKernels):
        return ModelRunner(model, cache, config.page_size, memory.get, eos, fuser)
    form, rows = _decode_form(config, model), config.max_num_seqs
    runner = DeviceRunner(
        model, kernels, cache, memory.get, eos, fuser, device, device.stream(), form, rows
    )
    device.synchronize()  # weights came in another stream
    runner.warm_up()
    device.synchronize()
    return runner


def _decode_form(config: EngineConfig, model: Phi3) -> DecodeForm:
    shape = model.config
    group = shape.num_heads // shape.num_kv_heads
    return DecodeForm(
        page_size=config.page_size,
        max_pages=-(-config.max_model_len // config.page_size),
        first_spare_page=config.num_pages,
        attention=AttentionShape(group, shape.sliding_window),
    )


def _fuser(model: Phi3, memory: AdapterMemory) -> Fuser:
    weights = FusedWeights(model.fusable_weights(), model.kernels)
    weights.warm_up()
    return Fuser(weights, memory.get, memory.lease_to_weights)


def _plan(
    settings: Settings,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    kernels: Kernels,
    device: Device,
    report: Report,
) -> tuple[EngineConfig, int, int]:
    """The engine's sizes, the bytes of a page, and the most bytes of adapters on the device.

    On a CPU the system takes memory page by page, so adapters and KV pages share one budget; on a
    GPU what the cache has is its own, so the budget is divided at the start.
    """
    model = checkpoint.config
    budget = plan_budget(settings, model, dtype, device) if device.is_gpu else None
    cache_bytes = budget.cache if budget else settings.device_cache_bytes or CPU_CACHE_BYTES
    page_bytes = bytes_per_page(model, settings.page_size, dtype)
    adapter_bytes = settings.max_adapter_bytes_device or cache_bytes // 2
    kept_pages = (cache_bytes - adapter_bytes) // page_bytes
    if kept_pages <= 0:
        reason = f"adapters may take {adapter_bytes} of it, and a KV page has {page_bytes}"
        raise SettingsConflict("device_cache_bytes", cache_bytes, reason)
    fits = min(kept_pages * settings.page_size, model.max_position_embeddings)
    max_model_len = settings.max_model_len or fits
    if max_model_len > fits:
        raise SettingsConflict("max_model_len", max_model_len, f"model and KV pages allow {fits}")
    if budget is not None:
        report(budget.table(adapter_bytes, kept_pages * page_bytes))
    lent_pages = -(-adapter_bytes // page_bytes) if budget is None else 0
    name = str(dtype).removeprefix("torch.")
    numerics = f"dtype={name};kv={name};quantization={settings.quantization};kernels={kernels.name}"
    config = EngineConfig(
        max_model_len=max_model_len,
        num_pages=kept_pages + lent_pages,
        max_lent_pages=lent_pages,
        page_size=settings.page_size,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queued_requests=settings.max_queued_requests,
        num_draft_tokens=settings.speculation,
        rope_boundary=model.rope.original_max_positions,
        numerics=numerics,
        may_fuse=settings.mode != "batched",
    )
    return config, page_bytes, adapter_bytes
