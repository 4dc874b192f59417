"""Writers of other projects' formats, entry by entry from their descriptions.

Slow and plain on purpose: they share nothing with the readers under test. A change is a dense
weight with a mask; outside of the mask the weight is zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import BaseIdentity, BaseLayer
from adapters_store.converters.parts import Target
from adapters_store.importers.peft_source import Layout, Parts

QKV, QKV_1 = "model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.qkv_proj"
OUTPUT, DOWN = "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj"
SHAPES = {QKV: (96, 32), QKV_1: (96, 32), OUTPUT: (32, 32), DOWN: (32, 48), "lm_head": (20, 32)}
BASE = BaseIdentity(
    "tiny", {name: BaseLayer(s, f"sha256:{i:064}") for i, (name, s) in enumerate(SHAPES.items())}
)
PARTS: Parts = {
    "self_attn.q_proj": ("self_attn.qkv_proj", 0, 32),
    "self_attn.k_proj": ("self_attn.qkv_proj", 32, 32),
    "self_attn.v_proj": ("self_attn.qkv_proj", 64, 32),
}
SIDE = 16


def base_weight(layer: str) -> Tensor:
    return torch.randn(SHAPES[layer], generator=torch.Generator().manual_seed(len(layer)))


TARGET = Target(Layout(BASE, PARTS), base_weight)


@dataclass(frozen=True)
class Change:
    """What fine-tuning learned about one module."""

    weight: Tensor  # [out, in], zero outside of the mask
    mask: Tensor  # [out, in] bool; zeros inside are part of it

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row-major."""
        return [(int(r), int(c)) for r, c in self.mask.nonzero().tolist()]

    @property
    def values(self) -> list[float]:
        return [float(self.weight[place]) for place in self.places]


Changes = Mapping[str, Change]


def learned(mask: Tensor, seed: int) -> Change:
    """Values for a mask, some of them zero."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(mask.shape, generator=source) * mask
    weight[torch.rand(mask.shape, generator=source) < 0.05] = 0
    return Change(weight, mask)


def mttl_block_mask(shape: tuple[int, int], blocks: list[tuple[int, int]]) -> Tensor:
    """mttl's indexer: made for `[in, out]`, applied to the flat buffer of a weight `[out, in]`."""
    flat = torch.zeros(shape[0] * shape[1], dtype=torch.bool)
    for block_row, block_column in blocks:
        for i in range(SIDE):
            for j in range(SIDE):
                flat[(SIDE * block_row + i) * shape[0] + SIDE * block_column + j] = True
    return flat.view(shape)


def tile_mask(
    shape: tuple[int, int], tiles: list[tuple[int, int]], block: tuple[int, int]
) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, column in tiles:
        top, left = row * block[0], column * block[1]
        mask[top : top + block[0], left : left + block[1]] = True
    return mask


def write_mttl(directory: Path, changes: Changes, *, keyed: bool = True) -> Path:
    """The sparse-mask branch: values in one file, their places in another."""
    torch.save(
        {f"{name}.sparse_layer.weight": torch.tensor(c.values) for name, c in changes.items()},
        directory / "expert.ckpt",
    )
    write_mttl_mask(directory / "task_mask.npz", changes, keyed=keyed)
    return directory


def write_mttl_mask(path: Path, changes: Changes, *, keyed: bool) -> None:
    masks = {
        f"model.{name}.sparse_layer": np.array(change.places, dtype=np.int64).reshape(-1, 2)
        for name, change in changes.items()
    }
    shapes = {f"model.{name}.sparse_layer": change.mask.shape for name, change in changes.items()}
    np.savez(path, arr={"mask": masks, "mask_shape": shapes} if keyed else masks)  # type: ignore[arg-type]


def write_mttl_dense(directory: Path, changes: Changes) -> Path:
    """The older sparse-mask branch: dense weights, stale outside, and an npz of masks only."""
    state = {f"{name}.sparse_layer.weight": _stale(change) for name, change in changes.items()}
    torch.save(state, directory / "expert.ckpt")
    write_mttl_mask(directory / "task_mask.npz", changes, keyed=False)
    return directory


def write_mttl_trainer(
    directory: Path, changes: Changes, biases: Mapping[str, Tensor], *, with_mask: bool = True
) -> Path:
    """The HF trainer's dense file; Lightning's where the mask is deleted."""
    state = {}
    for name, change in changes.items():
        layer = f"model.{name}.sparse_layer"
        state[f"{layer}.weight"] = _stale(change)
        if with_mask:
            state[f"{layer}.weight_mask"] = change.mask.float()
        state[f"{layer}.bias"] = biases.get(name, torch.zeros(change.mask.shape[0]))
    path = directory / ("mttl_weights.bin" if with_mask else "epoch.ckpt")
    torch.save(state if with_mask else {"state_dict": state, "epoch": 1}, path)
    return path


def _stale(change: Change) -> Tensor:
    """What training leaves outside of the mask after it has moved."""
    return torch.where(change.mask, change.weight, torch.full_like(change.weight, 7.0))


def write_mttl_rows(directory: Path, changes: Changes, *, blocks: bool = False) -> Path:
    """Release 1.0.2: compressed rows; in block mode the same values under another shape."""
    state = {}
    for name, change in changes.items():
        layer = f"{name}.sparse_layer.sparse_weights"
        per_row = [sum(r == row for r, _ in change.places) for row in range(len(change.mask))]
        values = torch.tensor(change.values)
        state[f"{layer}.sparse_weights"] = values.view(-1, SIDE, SIDE) if blocks else values
        state[f"{layer}.row_offs"] = torch.tensor([0, *np.cumsum(per_row)], dtype=torch.int32)
        state[f"{layer}.col_idx"] = torch.tensor([c for _, c in change.places], dtype=torch.int16)
        longest_first = sorted(range(len(per_row)), key=lambda row: -per_row[row])
        state[f"{layer}.row_idx"] = torch.tensor(longest_first, dtype=torch.int16)
    torch.save(state, directory / "rows.ckpt")
    return directory / "rows.ckpt"


def write_spiel(directory: Path, changes: Changes) -> Path:
    """Row-major flat places, int32."""
    state = {}
    for name, change in changes.items():
        stem = f"base_model.model.{name}.sft_delta.default"
        flat = [row * change.mask.shape[1] + column for row, column in change.places]
        state[f"{stem}.indices"] = torch.tensor(flat, dtype=torch.int32)
        state[f"{stem}.values"] = torch.tensor(change.values)
    torch.save(state, directory / "adapter_model.bin")
    return directory


def write_lt_sft(
    directory: Path, changes: Changes, replaced: Mapping[str, Tensor] | None = None
) -> Path:
    """Steps between column-major flat places; replaced tensors whole."""
    diffs = {}
    for name, change in changes.items():
        num_rows = change.mask.shape[0]
        flat = sorted((row + column * num_rows, row, column) for row, column in change.places)
        steps = np.diff(np.array([place for place, _, _ in flat]), prepend=0).astype(np.int32)
        values = torch.tensor([float(change.weight[row, column]) for _, row, column in flat])
        size = change.mask.shape
        diffs[f"{name}.weight"] = {"size": size, "index_steps": steps, "values": values}
    whole = {f"{name}.weight": tensor for name, tensor in (replaced or {}).items()}
    torch.save({"diffs": diffs, "abs": whole}, directory / "pytorch_diff.bin")
    return directory


def write_diablo(path: Path, blocks: Mapping[str, Tensor]) -> Path:
    """`[n, in / n, out / n]` each."""
    torch.save({f"{name}.diablo_D": tensor for name, tensor in blocks.items()}, path)
    return path


def diablo_change(blocks: Tensor) -> Tensor:
    """What `x -> x diag(D)` is as a weight `[out, in]`."""
    count, rows_in, columns_out = blocks.shape
    weight = torch.zeros(count * columns_out, count * rows_in)
    for n in range(count):
        for i in range(rows_in):
            for o in range(columns_out):
                weight[n * columns_out + o, n * rows_in + i] = blocks[n, i, o]
    return weight
