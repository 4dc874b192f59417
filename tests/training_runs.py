"""Small training runs on tiny checkpoints: rows, configurations, and a run from start to end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters_store.adapter import SparseAdapter
from adapters_store.training.config import TrainConfig, build
from adapters_store.training.data import Row
from adapters_store.training.train import Run, TrainData, run

ROWS = [Row(f"Say {number}.", str(7 * number)) for number in range(20)]
SMALL = {
    "keep_ratio": 0.05,
    "epochs": 3,
    "batch": 4,  # 5 micro-batches, in 3 steps
    "accumulation": 2,
    "lr": 0.01,
    "max_answer_tokens": 8,
}
RESELECT = {"reselect_every": 2}


def write_rows(path: Path, rows: Sequence[Row] = ROWS) -> Path:
    lines = [json.dumps({"prompt": row.prompt, "target": row.target}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def small_config(base: Path, directory: Path, method: str = "mcs", **changes: Any) -> TrainConfig:
    """A run of nine steps, the first three of which select where the method selects."""
    data = write_rows(directory / "rows.jsonl")
    fields = {"base": base, "data": [data], "output": directory / "out", "method": method, **SMALL}
    if method in ("mcs", "cs", "gradient_magnitude", "weight_magnitude", "grow_and_drop"):
        fields |= RESELECT
    return build(fields | changes)


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def run_small(config: TrainConfig, model: Any = None) -> Run:
    """A run on the configuration's own files."""
    data = TrainData.read(AutoTokenizer.from_pretrained(config.base), config)
    return run(model or load(config.base), data, config)


def changed(base: Path, adapter: SparseAdapter) -> Any:
    """A fresh model with the adapter added to its weights."""
    model = load(base)
    for delta in adapter.deltas:
        model.get_submodule(delta.layer).weight.data += delta.dense()
    return model
