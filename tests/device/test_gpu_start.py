"""A start with the GPU's kernels, on a device that is none: interpreted, a few tokens long."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import request
from recorded_kernels import LoggingDevice
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store.adapter import SparseAdapter, WeightDelta
from server import runtime
from server.adapters.background import start_pool
from server.adapters.composition import BASE, Composition
from server.adapters.sources import PrototypesOf, Source
from server.budget import MemoryTooSmall
from server.device.interface import Memory
from server.kernels.gpu.attention import ATTEND
from server.kernels.gpu.compiled import Configuration, Kernel
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.identity import base_identity
from server.runtime import Runtime, build_runtime
from server.settings import Settings, SettingsConflict

KINDS = ("element", "low_rank")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of values in a file


@pytest.fixture
def no_deltas_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some seconds less of interpreting: what is not compiled has nothing to wait for."""
    monkeypatch.setattr("server.kernels.gpu.kernels.warm_up", lambda *_: None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def adapters(checkpoint: Checkpoint) -> dict[str, SparseAdapter]:
    identity = base_identity("tiny", checkpoint, None)
    layers = [name for name in identity.layers if name.endswith("qkv_proj")]
    made = [
        make_adapter(identity, kind, seed, layers, spread=0.1, keep_ratio=0.05)
        for seed, kind in enumerate(KINDS)
    ]
    return {adapter.digest: adapter for adapter in made}


def start(
    checkpoint: Checkpoint,
    adapters: dict[str, SparseAdapter],
    gpu: LoggingDevice,
    said: list[str],
    **fields: Any,
) -> Runtime:
    sizes = {"page_size": 16, "max_num_seqs": 3, "max_model_len": 64, "max_num_batched_tokens": 24}
    settings = Settings(_cli_parse_args=[], **{"dtype": "float32", **sizes, **fields})
    return build_runtime(
        settings, checkpoint, lambda digest, *_: adapters[digest], said.append, lambda: gpu
    )


def sources(runtime: Runtime, compositions: list[Composition]) -> list[Source]:
    """Of all adapters, and of what routers need beside them."""
    pool, fetch = start_pool("prototypes", 1), runtime.memory.host.fetch
    found: dict[str, Source] = {}
    for own in compositions:
        for digest in own.digests:
            found[digest] = source = runtime.source(digest)
            if own.router is not None:
                found["prototypes of " + digest] = PrototypesOf(source, fetch, pool)
    return [*found.values()]


def answers(
    runtime: Runtime, compositions: list[Composition], num_prompt: int = 5
) -> list[list[int]]:
    """Greedy, computed together."""
    lease = runtime.memory.lease(sources(runtime, compositions)).result(60)
    for n, composition in enumerate(compositions):
        prompt = [7 + n, *range(8, 7 + num_prompt)]
        runtime.engine.add(request(str(n), prompt, composition, max_tokens=3, ignore_eos=True))
    tokens: list[list[int]] = [[] for _ in compositions]
    while runtime.engine.has_work:
        for output in runtime.engine.step():
            assert output.error is None
            tokens[int(output.request_id)] += output.token_ids
    lease.release()
    return tokens


@pytest.mark.usefixtures("no_deltas_ahead")
def test_a_mixed_batch_on_the_gpus_kernels_answers_as_on_the_cpus(
    checkpoint: Checkpoint, adapters: dict[str, SparseAdapter]
) -> None:
    compositions = [BASE, *(Composition.linear([(digest, 1.0)]) for digest in adapters)]
    device, said = LoggingDevice(memory=Memory(1 << 30, 1 << 30)), list[str]()
    served = start(checkpoint, adapters, device, said, device="cuda")
    assert device.log.count("record") == 3  # steps of the base, of 1, 2 and 3 rows
    found = answers(served, compositions)
    assert device.log.count("record") == 4
    assert device.log.count("replay") == 2
    assert any(each.startswith("stream 2 after stream 1 mark") for each in device.log)  # uploads
    assert found == answers(start(checkpoint, adapters, device, [], device="cpu"), compositions)
    assert "kernels=gpu" in served.engine.config.numerics
    [table] = [each for each in said if each.startswith("memory of a fake")]
    assert "KV pages" in table


def test_too_little_memory_is_refused_before_anything_is_loaded(
    checkpoint: Checkpoint, adapters: dict[str, SparseAdapter]
) -> None:
    device, said = LoggingDevice(memory=Memory(1 << 20, 1 << 19)), list[str]()
    with pytest.raises(MemoryTooSmall, match="are missing"):
        start(checkpoint, adapters, device, said, device="cuda")
    assert said == []


@pytest.mark.usefixtures("no_deltas_ahead")
def test_memory_that_is_gone_while_loading_is_said(
    checkpoint: Checkpoint, adapters: dict[str, SparseAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runtime, "load_model", full)
    device = LoggingDevice(memory=Memory(1 << 30, 1 << 30))
    with pytest.raises(SettingsConflict, match="see who else uses it"):
        start(checkpoint, adapters, device, [], device="cuda")


@pytest.mark.usefixtures("no_deltas_ahead")
def test_a_server_that_is_ready_has_launched_every_form_of_attention(
    checkpoint: Checkpoint, adapters: dict[str, SparseAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: set[int | bool] = set()
    launch = Kernel.launch

    def noting(
        kernel: Kernel, grid: Any, form: Configuration, *rest: Any, **constants: Any
    ) -> None:
        if kernel is ATTEND:
            forms.add(form.sizes["LAUNCH"])
        launch(kernel, grid, form, *rest, **constants)

    monkeypatch.setattr(Kernel, "launch", noting)
    device = LoggingDevice(memory=Memory(1 << 30, 1 << 30))
    start(checkpoint, adapters, device, [], device="cuda", max_num_seqs=1)
    assert forms == {0, 1}  # narrow tiles and wide ones


def compiled_form(
    kernel: Kernel, form: Configuration, arguments: tuple[Any, ...], constants: dict[str, Any]
) -> tuple[object, ...]:
    """All that Triton compiles a kernel anew for: constants, types, aligned addresses, numbers that
    are 1 or multiples of 16, unless they are said to vary."""
    varying = kernel.function.kwargs.get("do_not_specialize", ())
    found: list[object] = [kernel.function.__name__, tuple(form.sizes.items())]
    found += [(name, str(value)) for name, value in sorted(constants.items())]
    for name, own in zip(kernel.signature, arguments, strict=True):
        if isinstance(own, torch.Tensor):
            found.append((name, own.dtype, own.data_ptr() % 16 == 0))
        elif isinstance(own, int):
            kinds = (own == 1, own % 16 == 0) if name not in varying else ()
            found.append((name, own.bit_length() < 32, *kinds))
    return tuple(found)


def of_dtype(delta: WeightDelta, dtype: torch.dtype) -> WeightDelta:
    tensors = {name: getattr(delta, name, None) for name in ("values", "a", "b", "delta", "bias")}
    return replace(delta, **{name: t.to(dtype) for name, t in tensors.items() if t is not None})


def mixed_adapter(checkpoint: Checkpoint, dtype: torch.dtype, seed: int) -> SparseAdapter:
    """Deltas of all kinds, one after another in the base's layers, so full that they are a matrix
    to a long prompt, beside each other at least; and entries of the head."""
    identity = base_identity("tiny", checkpoint, None)
    kinds = ("bias", "element", "block 16x16", "block 1x16", "low_rank", "dense")
    deltas = []
    for at, layer in enumerate(sorted(identity.layers)):
        kind = "element" if layer == "lm_head" else kinds[(at + seed) % len(kinds)]
        made = make_adapter(identity, kind, seed, [layer], spread=0.02, keep_ratio=0.4)
        deltas += [of_dtype(delta, dtype) for delta in made.deltas]
    digests = {layer: own.digest for layer, own in identity.layers.items()}
    return SparseAdapter(identity.name, digests, tuple(deltas), {})


def test_no_request_launches_a_kernel_that_was_not_compiled_before_the_server_was_ready(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [mixed_adapter(checkpoint, dtype, seed) for seed, dtype in enumerate(DTYPES)]
    mixed = {adapter.digest: adapter for adapter in made}
    compiled: set[tuple[object, ...]] = set()

    def noting(
        kernel: Kernel, grid: Any, form: Configuration, *rest: Any, **constants: Any
    ) -> None:
        """Zeros are an answer too, and interpreting takes minutes."""
        compiled.add(compiled_form(kernel, form, rest, constants))
        rest[0].zero_()

    monkeypatch.setattr(Kernel, "launch", noting)
    device = LoggingDevice(memory=Memory(1 << 30, 1 << 30))
    served = start(checkpoint, mixed, device, [], device="cuda", mode="auto")
    ahead = set(compiled)
    compiled.clear()
    members = [(digest, 0.5) for digest in mixed]
    answers(served, [BASE, *(Composition.linear([own]) for own in members)], num_prompt=30)
    answers(served, [Composition.linear(members)], num_prompt=30)
    answers(served, [Composition.arrow(members, 0.5, None)])
    assert {found[0] for found in compiled} >= {
        "_spread_runs",
        "_multiply_tiles",
        "_spread_tiles",
    }
    assert compiled <= ahead, sorted(map(str, compiled - ahead))
