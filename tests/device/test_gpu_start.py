"""A start with the GPU's kernels, on a device that is none: interpreted, a few tokens long."""

from typing import Any

import pytest
import torch
from engines import request
from recorded_kernels import LoggingDevice
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store.adapter import SparseAdapter
from server import runtime
from server.adapters.composition import BASE, Composition
from server.budget import MemoryTooSmall
from server.device.interface import Memory
from server.kernels.gpu.attention import ATTEND
from server.kernels.gpu.compiled import Configuration, Kernel
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.identity import base_identity
from server.runtime import Runtime, build_runtime
from server.settings import Settings, SettingsConflict

KINDS = ("element", "low_rank")


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
    return build_runtime(settings, checkpoint, adapters.__getitem__, said.append, lambda: gpu)


def answers(runtime: Runtime, compositions: list[Composition]) -> list[list[int]]:
    """Greedy, computed together."""
    digests = {digest for own in compositions for digest in own.digests}
    lease = runtime.memory.lease([runtime.source(digest) for digest in sorted(digests)]).result(60)
    for n, composition in enumerate(compositions):
        prompt = [7 + n, 8, 9, 10, 11]
        runtime.engine.add(request(str(n), prompt, composition, max_tokens=3, ignore_eos=True))
    tokens: list[list[int]] = [[] for _ in compositions]
    while runtime.engine.has_work:
        for output in runtime.engine.step():
            assert output.error is None
            tokens[int(output.request_id)] += output.token_ids
    lease.release()
    return tokens


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


def test_memory_that_is_gone_while_loading_is_said(
    checkpoint: Checkpoint, adapters: dict[str, SparseAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runtime, "load_model", full)
    device = LoggingDevice(memory=Memory(1 << 30, 1 << 30))
    with pytest.raises(SettingsConflict, match="see who else uses it"):
        start(checkpoint, adapters, device, [], device="cuda")


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
