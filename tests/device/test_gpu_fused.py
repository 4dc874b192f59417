"""A composition in the weights, on the GPU's kernels: steps recorded before it go on with it."""

from pathlib import Path
from typing import Any

from engines import request
from recorded_kernels import LoggingDevice
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store.adapter import SparseAdapter
from server.adapters.composition import BASE, Composition
from server.device.interface import Memory
from server.engine.sequence import Mode
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.identity import base_identity
from server.runtime import build_runtime
from server.settings import Settings

PROMPT = [7, 8, 9]


def answer(
    checkpoint: Checkpoint, adapter: SparseAdapter, gpu: LoggingDevice, **fields: Any
) -> list[list[int]]:
    """What follows with the adapter in the weights, and then with nothing in them."""
    sizes = {"page_size": 16, "max_num_seqs": 1, "max_model_len": 32}
    told = {"dtype": "float32", "mode": "fused", **sizes, **fields}
    settings, load = Settings(_cli_parse_args=[], **told), {adapter.digest: adapter}
    served = build_runtime(
        settings, checkpoint, lambda digest, each: load[digest], lambda said: None, lambda: gpu
    )
    lease = served.memory.lease([served.source(adapter.digest)]).result(60)
    tokens: list[list[int]] = []
    for composition in (Composition.linear([(adapter.digest, 1.0)]), BASE):
        way = {"mode": Mode.FUSED, "max_tokens": 4, "ignore_eos": True}
        served.engine.add(request("r", PROMPT, composition, **way))  # type: ignore[arg-type]
        tokens.append([])
        while served.engine.has_work:
            for output in served.engine.step():
                assert output.error is None
                tokens[-1] += output.token_ids
    lease.release()
    return tokens


def test_fused_steps_answer_as_on_the_cpus_kernels(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_tiny_checkpoint(tmp_path)))
    identity = base_identity("tiny", checkpoint, None)
    layers = [name for name in identity.layers if name.endswith("qkv_proj")]
    adapter = make_adapter(identity, "element", 0, layers, spread=0.1, keep_ratio=0.05)
    gpu = LoggingDevice(memory=Memory(1 << 30, 1 << 30))
    found = answer(checkpoint, adapter, gpu, device="cuda")
    assert found == answer(checkpoint, adapter, gpu, device="cpu")
    assert found[0] != found[1]
    assert (gpu.log.count("record"), gpu.log.count("replay")) == (1, 6)
