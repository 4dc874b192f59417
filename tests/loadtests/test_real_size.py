"""The measurement at real size runs: on a tiny base, with servers of this process."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import running_server
from transformers import AutoModelForCausalLM, AutoTokenizer

from loadtests.real_size import __main__ as real_size
from loadtests.real_size.checkpoint import PHI3_MINI_4K, OtherCheckpoint, write_checkpoint

TINY: dict[str, Any] = {
    **PHI3_MINI_4K,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 320,
    "vocab_size": 384,
}


@contextmanager
def _server_here(command: Sequence[str], port: int, log: Path) -> Iterator[tuple[str, int]]:
    """As `loadtests.servers.running_process`, without the seconds that a process takes to start."""
    flags = command[command.index("--base-model") :]
    given: dict[str, Any] = {
        flag.removeprefix("--").replace("-", "_"): value
        for flag, value in zip(flags[::2], flags[1::2], strict=True)
    }
    data = {"data_dir": Path(given.pop("data_dir"))}
    with running_server(Path(given.pop("base_model")), **data, **given) as server:
        yield server.url, os.getpid()


def test_the_base_stays_the_same_and_everything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_size, "PHI3_MINI_4K", TINY)
    monkeypatch.setattr(real_size, "running_process", _server_here)
    real_size.main(
        [str(tmp_path / "base"), "--layers", "2", "--tokens", "4", "--keep-ratio", "0.1"]
    )
    *shown, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    answers = result["answers"]
    assert answers[real_size.UNDONE]["tokens"] == answers["base"]["tokens"]
    assert all(len(answer["tokens"]) == 4 for answer in answers.values())
    assert all(own["peak"] >= own["private"] > 0 for own in result["memory"].values())
    assert result["weights"] == 2 * sum(
        parameter.numel() for parameter in _model(tmp_path / "base").parameters()
    )
    assert any("adapter, fused" in line for line in shown)


def test_a_base_that_does_not_come_back_is_a_fault() -> None:
    names = [name for name, _, _ in real_size.QUESTIONS]
    answers = {name: {"tokens": ["a"], "logprobs": [-at]} for at, name in enumerate(names)}
    assert real_size.faults_of({"answers": {**answers, real_size.UNDONE: answers["base"]}}) == []
    other = {"tokens": ["a"], "logprobs": [-0.5]}
    (fault,) = real_size.faults_of({"answers": {**answers, real_size.UNDONE: other}})
    assert fault.startswith(real_size.UNDONE)


@pytest.mark.parametrize("name", ["adapter, batched", "adapter, fused"])
def test_an_adapter_that_leaves_no_trace_is_a_fault(name: str) -> None:
    names = [name for name, _, _ in real_size.QUESTIONS]
    answers = {name: {"tokens": ["a"], "logprobs": [-at]} for at, name in enumerate(names)}
    same = {"adapter, batched": "base", "adapter, fused": "adapter, batched"}[name]
    answers |= {name: answers[same], real_size.UNDONE: answers["base"]}
    assert len(real_size.faults_of({"answers": answers})) == 1


def test_a_checkpoint_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    num_bytes = write_checkpoint(tmp_path, TINY)
    shards = sorted(tmp_path.glob("*.safetensors"))
    contents = [shard.read_bytes() for shard in shards]
    times = [shard.stat().st_mtime_ns for shard in shards]
    shards[2].unlink()
    assert write_checkpoint(tmp_path, TINY) == num_bytes
    assert [shard.read_bytes() for shard in shards] == contents
    kept = [shard.stat().st_mtime_ns == time for shard, time in zip(shards, times, strict=True)]
    assert kept == [True, True, False, True, True]


def test_a_checkpoint_is_not_mixed_with_something_else(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", TINY)
    with pytest.raises(OtherCheckpoint):
        write_checkpoint(tmp_path / "base", {**TINY, "num_hidden_layers": 4})
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OtherCheckpoint):
        write_checkpoint(tmp_path, TINY)


def test_transformers_loads_the_checkpoint_and_every_token_has_a_text(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY)
    model, tokenizer = _model(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    deviation = model.model.layers[1].mlp.down_proj.weight.detach().float().std()
    assert float(deviation) == pytest.approx(TINY["initializer_range"], rel=0.05)
    texts = tokenizer.batch_decode([[token] for token in range(256, TINY["vocab_size"])])
    assert len(set(texts)) == len(texts)
    assert all(texts)


def _model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory)
