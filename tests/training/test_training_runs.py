"""Whole runs: phases, what is kept, what is told of them, what is refused."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
import torch
from click.testing import CliRunner
from training_runs import ROWS, changed, load, run_small, small_config, write_rows
from transformers import AutoTokenizer

from adapters_store import files
from adapters_store.adapter import BlockDelta
from adapters_store.training import report
from adapters_store.training.answers import mean_loss
from adapters_store.training.data import Encoder
from adapters_store.training.failures import ConfigRefused, OtherRun
from adapters_store.training.train import Run
from offline import train_files, training

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(run: Run, key: str = "loss") -> list[float]:
    return [entry[key] for entry in run.history if key in entry]


def loss_of(model: Any, base: Path, prompt: Any = "chat") -> float:
    encoder = Encoder(AutoTokenizer.from_pretrained(base), prompt, 99, 8)
    return mean_loss(model.eval(), [encoder(row) for row in ROWS], 4)


def test_mask_is_selected_first_and_then_only_its_values_are_trained(
    tiny_base: Path, tmp_path: Path
) -> None:
    run = run_small(small_config(tiny_base, tmp_path))
    costs = report.costs(run)
    assert [(name, cost.steps) for name, cost in costs.items()] == [("dense", 3), ("sparse", 6)]
    assert costs["sparse"].state_bytes < 0.2 * costs["dense"].state_bytes
    entries = [int(delta.shape[0] * delta.shape[1] * 0.05) for delta in run.adapter.deltas]
    assert [delta.nnz for delta in run.adapter.deltas] == entries


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "snip"},
        {"method": "cs", "form": "16x16", "keep_ratio": 0.2},
        {"one_shot": True},
        {"selecting_epochs": 0.5, "reselect_every": 1},  # the phase ends between two steps
        {"accumulation": 1, "prompt": "raw", "scope": "row"},
        {"selecting_epochs": 2, "scope": "layer_drop", "max_steps": 7},
    ],
    ids=str,
)
def test_adapter_on_the_base_is_the_model_that_was_trained(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    data = write_rows(tmp_path / "watched.jsonl")
    config = small_config(tiny_base, tmp_path, **{"method": "mcs", **changes}, validation=[data])
    run = run_small(config)
    untrained = loss_of(load(tiny_base), tiny_base, config.prompt)
    trained = loss_of(changed(tiny_base, run.adapter), tiny_base, config.prompt)
    assert trained == pytest.approx(losses(run, "eval_loss")[-1], rel=1e-5)
    assert trained < untrained


def test_model_is_left_as_it_was(tiny_base: Path, tmp_path: Path) -> None:
    model, untouched = load(tiny_base), load(tiny_base)
    run_small(small_config(tiny_base, tmp_path), model)
    for (name, weight), (other, before) in zip(
        model.state_dict().items(), untouched.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(weight, before)


def test_tiles_become_a_block_delta(tiny_base: Path, tmp_path: Path) -> None:
    config = small_config(tiny_base, tmp_path, "snip", form="1x16", keep_ratio=0.1)
    deltas = run_small(config).adapter.deltas
    assert all(isinstance(delta, BlockDelta) and delta.block == (1, 16) for delta in deltas)


def test_best_state_is_kept_and_patience_ends_the_run(tiny_base: Path, tmp_path: Path) -> None:
    watched = write_rows(tmp_path / "watched.jsonl")
    config = small_config(
        tiny_base,
        tmp_path,
        "snip",
        lr=2.0,  # so high that it soon gets worse
        clip=0,
        epochs=9,
        validation=[watched],
        evaluate_every=1,
        best_by="loss",
        patience=2,
    )
    run = run_small(config)
    seen = losses(run, "eval_loss")
    assert run.best_step == 1 + seen.index(min(seen))
    assert len(seen) == run.best_step + 2 < 27
    kept = loss_of(changed(tiny_base, run.adapter), tiny_base)
    assert kept == pytest.approx(min(seen), rel=1e-5)
    again = run_small(config)
    assert again.adapter.digest == run.adapter.digest
    assert losses(again) == losses(run)


def test_best_by_rouge_l_generates_answers(tiny_base: Path, tmp_path: Path) -> None:
    watched = write_rows(tmp_path / "watched.jsonl", ROWS[:4])
    watching = {"validation": [watched], "evaluate_every": 3, "best_by": "rouge_l"}
    run = run_small(small_config(tiny_base, tmp_path, "snip", **watching))
    scores = losses(run, "eval_rouge_l")
    assert len(scores) == 3
    assert run.best_step == 3 * (1 + scores.index(max(scores)))


def test_several_files_are_mixed(tiny_base: Path, tmp_path: Path) -> None:
    second = write_rows(tmp_path / "second.jsonl", ROWS[:4])
    config = small_config(tiny_base, tmp_path, "snip")
    mixed = config.model_copy(update={"data": (*config.data, second), "max_steps": 1})
    run = run_small(mixed)
    assert run.lineage["rows"] == 24
    assert run.lineage["data"] == ["rows.jsonl", "second.jsonl"]


def test_run_that_would_only_select_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="3 of 3 steps select"):
        run_small(small_config(tiny_base, tmp_path, max_steps=3))


def test_checkpoints_of_another_run_are_not_gone_on_with(tiny_base: Path, tmp_path: Path) -> None:
    run_small(small_config(tiny_base, tmp_path, "snip", max_steps=1))
    with pytest.raises(OtherRun) as refused:
        run_small(small_config(tiny_base, tmp_path, "snip", max_steps=1, seed=1))
    assert refused.value.fields == ("seed",)


@pytest.mark.parametrize("steps", [9, 5], ids=["at an epoch's end", "within an epoch"])
def test_finished_run_gives_its_adapter_again(tiny_base: Path, tmp_path: Path, steps: int) -> None:
    config = small_config(tiny_base, tmp_path, max_steps=steps)
    first = run_small(config)
    again = run_small(config)
    assert again.adapter.digest == first.adapter.digest
    assert losses(again) == losses(first)


def test_seed_decides_the_adapter(tiny_base: Path, tmp_path: Path) -> None:
    digests = []
    for place, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / place).mkdir()
        config = small_config(tiny_base, tmp_path / place, "random", seed=seed)
        digests.append(run_small(config).adapter.digest)
    assert digests[0] == digests[1] != digests[2]


def test_command_writes_adapter_report_and_logs(tiny_base: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "run.json", tmp_path / "out"
    file.write_text(small_config(tiny_base, tmp_path, max_steps=5).model_dump_json())
    said = CliRunner().invoke(training.train, ["--config", str(file), "--name", "sevens"])
    assert said.exit_code == 0, said.output
    adapter = files.read(out / report.ADAPTER)
    result = json.loads((out / report.RESULT).read_text())
    assert result["adapter"]["digest"] == adapter.digest
    assert result["phases"].keys() == {"dense", "sparse"}
    assert len(result["steps"]) == 5
    lineage = json.loads(adapter.notes["lineage"])
    assert lineage == result["lineage"]
    assert (adapter.notes["task"], adapter.notes["prompting"]) == ("sevens", "chat")
    assert str(tmp_path) not in adapter.notes["lineage"]
    assert (out / report.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert list((out / "logs").glob("events.*"))
    assert adapter.digest in said.output


def test_pictured_shares_are_those_of_the_rows(tiny_base: Path, tmp_path: Path) -> None:
    adapter = run_small(small_config(tiny_base, tmp_path, "snip", max_steps=1)).adapter
    for delta in adapter.deltas:
        named = torch.zeros(delta.shape).flatten()
        named[delta.tensors["indices"].long()] = 1
        expected = named.view(delta.shape).double().mean(1)
        torch.testing.assert_close(report.row_shares(delta), expected)
    assert list(report.mask_maps(adapter)) == ["self_attn.qkv_proj"]


class Server(BaseHTTPRequestHandler):
    """Answers every upload with `answer`, and keeps what came."""

    answer: ClassVar[tuple[int, bytes]] = (201, b'{"id": "sevens@1"}')
    came: ClassVar[list[tuple[str, str | None, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.came.append((self.path, self.headers["authorization"], body))
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(self.answer[1])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    class Fresh(Server):
        came: ClassVar[list[tuple[str, str | None, bytes]]] = []

    with HTTPServer(("127.0.0.1", 0), Fresh) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", Fresh
        listening.shutdown()
        thread.join()


def test_adapter_is_published_under_its_name(
    server: tuple[str, type[Server]], tmp_path: Path
) -> None:
    url, came = server[0], server[1].came
    (tmp_path / "a.safetensors").write_bytes(b"the adapter")
    said = train_files.publish(url + "/", "sevens", tmp_path / "a.safetensors", "key")
    assert said == f"{url}/: published as sevens@1"
    ((path, authorization, body),) = came
    assert (path, authorization) == ("/v1/adapters", "Bearer key")
    assert b"the adapter" in body
    assert b"sevens" in body


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (403, b'{"error": {"message": "not signed"}}', "not signed"),
        (500, b"oops", "status 500"),
        (400, b"[]", "status 400"),
    ],
)
def test_refused_publication_is_told(
    server: tuple[str, type[Server]], tmp_path: Path, status: int, body: bytes, told: str
) -> None:
    url, handler = server
    handler.answer = (status, body)
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(click.ClickException, match=told):
        train_files.publish(url, "n", tmp_path / "a.safetensors", None)
