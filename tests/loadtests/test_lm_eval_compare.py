"""The comparison with lm-evaluation-harness: its fused checkpoint, and how it reads results."""

import json
from pathlib import Path

import pytest
import torch
from engines import weights_with
from safetensors.torch import load_file
from tiny_adapters import make_adapter
from tiny_models import make_tiny_checkpoint

from adapters_store import files
from loadtests.lm_eval.fused import fuse
from loadtests.lm_eval.harness import HERE, read_answers, score, task_names
from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity

ROWS = {
    "generation": [
        {"doc_id": 1, "metrics": ["exact_match"], "exact_match": 1.0, "resps": [["one"]]},
        {"doc_id": 0, "metrics": ["exact_match"], "exact_match": 0.0, "resps": [["two"]]},
    ],
    "choice": [
        {
            "doc_id": 0,
            "metrics": ["acc"],
            "acc": 1.0,
            "resps": [[["-1.5", "False"]], [["-2.5", "True"]]],
        }
    ],
    "rolling": [
        {
            "doc_id": 0,
            "metrics": ["word_perplexity"],
            "word_perplexity": [-4.0, 2],
            "resps": [["-4.0"]],
        }
    ],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder as the harness leaves it."""
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    for task, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"samples_{task}_2026-01-01T00-00-00.000000.jsonl").write_text(text)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("task", "texts", "numbers", "points"),
    [
        ("generation", ("two",), (), 50.0),
        ("choice", ("False", "True"), (-1.5, -2.5), 100.0),
        ("rolling", (), (-4.0,), 7.38905609893065),
    ],
)
def test_answers_are_read_by_row(
    results: Path, task: str, texts: tuple[str, ...], numbers: tuple[float, ...], points: float
) -> None:
    answers = read_answers(results, task)
    assert (answers[0].texts, answers[0].numbers) == (texts, numbers)
    assert score(answers.values()) == pytest.approx(points)


def test_a_fused_checkpoint_is_the_base_plus_the_adapter(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    identity = base_identity("tiny", open_checkpoint(str(base)), None)
    adapter = make_adapter(identity, "element", 3)
    files.write(adapter, tmp_path / "adapter.safetensors")
    fused = fuse(base, tmp_path / "adapter.safetensors", tmp_path / "fused")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, fused))
    changes = {f"{layer}.weight": change for layer, change in weights_with(adapter).items()}
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight + changes.get(name, 0))
    assert open_checkpoint(str(fused)).tokenizer.eos_token


def test_every_task_has_its_rows() -> None:
    assert task_names()
    for name in task_names():
        [line] = [
            line
            for line in (HERE / "tasks" / f"{name}.yaml").read_text().splitlines()
            if line.startswith("dataset_kwargs")
        ]
        path = HERE / line.rpartition("test: ")[2].strip("} ")
        assert len(path.read_text().splitlines()) == 100
