"""The engine's part of the composition root: memory planned, model loaded, tiers joined."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from adapters_store.adapter import SparseAdapter
from server.adapters.background import start_pool
from server.adapters.device import DeviceAdapters
from server.adapters.fused import FusedWeights
from server.adapters.host import HostAdapters
from server.adapters.memory import AdapterMemory
from server.adapters.sources import Source, StoredAdapter
from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.fuser import Fuser
from server.engine.page_room import PageRoom
from server.engine.runner import ModelRunner
from server.engine.sequence import Mode
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels
from server.model.checkpoint import Checkpoint
from server.model.kv_cache import allocate, bytes_per_page
from server.model.load import load_model
from server.model.phi3 import Phi3
from server.model.text import TextCodec
from server.settings import Settings, SettingsConflict
from server.storage import Report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOADERS = 2  # threads that read adapters and lay them out

Load = Callable[[str], SparseAdapter]  # reads and verifies a stored adapter


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
    settings: Settings, checkpoint: Checkpoint, load: Load, report: Report
) -> Runtime:
    """The engine of `checkpoint`, as the settings say. Raises SettingsConflict."""
    device = _device(settings)
    dtype = _dtype(settings, device)
    if settings.mode != "batched" and settings.quantization != "none":
        raise SettingsConflict("mode", settings.mode, "a quantized base is never fused with")
    kernels = _kernels(settings, device, dtype)
    config, page_bytes, adapter_bytes = _plan(settings, checkpoint, dtype, kernels)
    cache = allocate(checkpoint.config, config.num_pages, config.page_size, dtype, device)
    blocks = BlockManager.of(config)
    pool = start_pool("adapters", LOADERS)
    memory = AdapterMemory(
        HostAdapters(settings.max_adapter_bytes_host),
        DeviceAdapters(adapter_bytes),
        kernels,
        pool,
        blocks.lock,
        settings.max_queued_requests,
    )
    if config.max_lent_pages:
        PageRoom(blocks, page_bytes, cache.forget).connect(memory)
    report(f"loading the weights of {checkpoint.name} as {dtype} on {device}")
    model = load_model(checkpoint, dtype, device, kernels)
    report("making the kernels ready, which takes some seconds when it is done for the first time")
    kernels.warm_up(weight for _, weight in model.weights.linears())
    eos = checkpoint.eos_token_ids
    fuser = _fuser(model, memory) if config.may_fuse else None
    runner = ModelRunner(model, cache, config.page_size, memory.get, eos, fuser)
    engine = Engine(config, runner, TextCodec(checkpoint.tokenizer).decode, eos, blocks)
    return Runtime(
        engine=engine,
        memory=memory,
        source=lambda digest: StoredAdapter(digest, load, pool),
        device=device,
        dtype=dtype,
        mode=Mode(settings.mode),
        fuser=fuser,
    )


def _fuser(model: Phi3, memory: AdapterMemory) -> Fuser:
    weights = FusedWeights(model.fusable_weights(), model.kernels)
    weights.warm_up()
    return Fuser(weights, memory.get, memory.lease_to_weights)


def _plan(
    settings: Settings, checkpoint: Checkpoint, dtype: torch.dtype, kernels: Kernels
) -> tuple[EngineConfig, int, int]:
    """The engine's sizes, the bytes of a page, and the most bytes of adapters on the device.

    On a CPU the system takes memory page by page, so adapters and KV pages share one budget; on a
    GPU what the cache has is its own, so the budget is divided at the start.
    """
    model = checkpoint.config
    page_bytes = bytes_per_page(model, settings.page_size, dtype)
    adapter_bytes = settings.max_adapter_bytes_device or settings.device_cache_bytes // 2
    kept_pages = (settings.device_cache_bytes - adapter_bytes) // page_bytes
    if kept_pages <= 0:
        reason = f"adapters may take {adapter_bytes} of it, and a KV page has {page_bytes}"
        raise SettingsConflict("device_cache_bytes", settings.device_cache_bytes, reason)
    fits = min(kept_pages * settings.page_size, model.max_position_embeddings)
    max_model_len = settings.max_model_len or fits
    if max_model_len > fits:
        raise SettingsConflict("max_model_len", max_model_len, f"model and KV pages allow {fits}")
    lent_pages = -(-adapter_bytes // page_bytes) if kernels.device.type == "cpu" else 0
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


def _kernels(settings: Settings, device: torch.device, dtype: torch.dtype) -> Kernels:
    fits = device.type == "cpu" and dtype == torch.float32
    if settings.kernels == "cpu" and not fits:
        raise SettingsConflict(
            "kernels", "cpu", f"they compute fp32 on a CPU, not {dtype} on {device}"
        )
    if not fits or settings.kernels == "reference":
        if settings.quantization == "int8":
            reason = f"the cpu kernels have it, for fp32; not the reference's, {dtype} on {device}"
            raise SettingsConflict("quantization", "int8", reason)
        return ReferenceKernels(device)
    return Int8CpuKernels() if settings.quantization == "int8" else CpuKernels()


def _device(settings: Settings) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise SettingsConflict("device", "cuda", "torch sees no CUDA device")
    return torch.device("cuda" if has_cuda and settings.device != "cpu" else "cpu")


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    return torch.bfloat16 if device.type == "cuda" else torch.float32
