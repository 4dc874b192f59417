"""What is kept of a run beside its adapter: numbers as JSON, and a picture.

The picture has the loss of every step and the masks: for each layer, which rows hold how many of
the trained entries. Drawn with matplotlib's own classes, so nothing of it is set for the process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from adapters_store import files
from adapters_store.adapter import BlockDelta, ElementDelta, SparseAdapter, WeightDelta
from adapters_store.training.measuring import PhaseCost, phase_costs
from adapters_store.training.train import Run

ADAPTER, RESULT, PICTURE = "adapter.safetensors", "result.json", "report.png"
ROW_BINS = 96  # columns of a mask's picture
PAPER, INK, FAINT = "#ffffff", "#1f2328", "#d8dde3"
TRAINED, WATCHED = "#2f6fab", "#c4622d"
WIDTH_INCHES, DOTS_PER_INCH = 9.0, 130

Floats = NDArray[np.float64]
Entries = Sequence[Mapping[str, Any]]


def write(run: Run, directory: Path) -> None:
    """Write the adapter, `result.json` and `report.png` into `directory`."""
    files.write(run.adapter, directory / ADAPTER)
    text = json.dumps(result(run), indent=1, sort_keys=True)
    (directory / RESULT).write_text(text + "\n", encoding="utf-8")
    # The same picture is the same bytes: no programs' versions.
    draw(run).savefig(directory / PICTURE, dpi=DOTS_PER_INCH, metadata={"Software": None})


def result(run: Run) -> dict[str, Any]:
    """Lineage, metrics and costs of a run, as JSON."""
    adapter = run.adapter
    return {
        "adapter": {
            "digest": adapter.digest,
            "kinds": list(adapter.kinds),
            "layers": len(adapter.layers),
            "entries": adapter.nnz,
            "values": num_values(adapter),
            "bytes": files.num_bytes(adapter),
        },
        "lineage": dict(run.lineage),
        "best_step": run.best_step,
        "phases": {name: asdict(cost) for name, cost in phase_costs(run.history).items()},
        "evaluations": _entries(run.history, "eval_loss"),
        "steps": _entries(run.history, "loss"),
    }


def num_values(adapter: SparseAdapter) -> int:
    """Trained numbers that are stored, without their places."""
    tensors = [tensor for delta in adapter.deltas for tensor in delta.tensors.values()]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def costs(run: Run) -> dict[str, PhaseCost]:
    """Seconds per step and memory, by phase."""
    return phase_costs(run.history)


def _entries(history: Entries, key: str) -> list[dict[str, Any]]:
    return [dict(entry) for entry in history if key in entry]


def draw(run: Run) -> Figure:
    """The losses above, and under them one map for each kind of layer that has a mask."""
    masks = mask_maps(run.adapter)
    figure = Figure(
        figsize=(WIDTH_INCHES, 3 + 2.6 * len(masks)), facecolor=PAPER, layout="constrained"
    )
    found = np.atleast_1d(np.asarray(figure.subplots(1 + len(masks), 1)))
    _draw_losses(found[0], run.history)
    for axes, (suffix, shares) in zip(found[1:], sorted(masks.items()), strict=True):
        _draw_mask(axes, suffix, shares)
    return figure


def _draw_losses(axes: Axes, history: Entries) -> None:
    trained, watched = _entries(history, "loss"), _entries(history, "eval_loss")
    _curve(axes, trained, "loss", TRAINED, "training")
    _curve(axes, watched, "eval_loss", WATCHED, "validation")
    phases = [entry["phase"] for entry in trained]
    for entry, before in zip(trained[1:], phases, strict=False):
        if entry["phase"] != before:
            axes.axvline(entry["step"], color=INK, linewidth=0.8, linestyle=":")
    axes.set_title("Loss of answer tokens; dotted: the mask is fixed", color=INK, fontsize=10)
    axes.set_xlabel("step", color=INK, fontsize=8)
    if trained or watched:
        axes.legend(fontsize=8, frameon=False)
    axes.tick_params(colors=INK, labelsize=8)


def _curve(axes: Axes, entries: Entries, key: str, colour: str, label: str) -> None:
    if entries:
        steps, values = [e["step"] for e in entries], [e[key] for e in entries]
        axes.plot(steps, values, color=colour, label=label, linewidth=1.2, marker=".")


def _draw_mask(axes: Axes, suffix: str, shares: Mapping[str, Floats]) -> None:
    names = sorted(shares, key=_layer_order)
    image = axes.imshow(np.stack([shares[name] for name in names]), aspect="auto", cmap="Blues")
    axes.set_title(f"{suffix}: trained share of the entries", color=INK, fontsize=10)
    axes.set_xlabel("rows, first to last", color=INK, fontsize=8)
    axes.set_ylabel("layer", color=INK, fontsize=8)
    axes.set_facecolor(FAINT)
    axes.set_xticks([])
    axes.tick_params(colors=INK, labelsize=7)
    every = max(1, len(names) // 8)
    axes.set_yticks(range(0, len(names), every), [_number(name) for name in names[::every]])
    scale = axes.figure.colorbar(image, ax=axes, format=lambda x, _: f"{x:.1%}")
    scale.ax.tick_params(colors=INK, labelsize=7)


def mask_maps(adapter: SparseAdapter) -> dict[str, dict[str, Floats]]:
    """Kind of layer -> layer -> share of the entries that are named, in ROW_BINS bins of rows."""
    maps: dict[str, dict[str, Floats]] = {}
    for delta in adapter.deltas:
        if isinstance(delta, ElementDelta | BlockDelta):
            suffix = ".".join(delta.layer.split(".")[-2:])
            maps.setdefault(suffix, {})[delta.layer] = _binned(row_shares(delta))
    return maps


def row_shares(delta: WeightDelta) -> Tensor:
    """Share of each row's entries that an element or block delta names, fp64 `[out]`."""
    rows, columns = delta.shape
    if isinstance(delta, BlockDelta):
        counts = torch.bincount(delta.rows().flatten(), minlength=rows) * delta.block[1]
    else:
        assert isinstance(delta, ElementDelta), "other kinds have no mask"
        counts = torch.bincount(delta.indices.long() // columns, minlength=rows)
    return counts.double() / columns


def _binned(shares: Tensor) -> Floats:
    """Means over ROW_BINS runs of rows (of each row where there are fewer)."""
    parts = shares.tensor_split(min(ROW_BINS, len(shares)))
    return np.array([float(part.mean()) for part in parts])


def _layer_order(name: str) -> tuple[int, str]:
    number = _number(name)
    return (int(number) if number.isdigit() else -1, name)


def _number(name: str) -> str:
    return next((word for word in name.split(".") if word.isdigit()), name)
