"""The gate: whether an adapter is well formed and fits a base. Everything from outside passes it.

Every check answers with reasons that name the layer, the field and the value. Within one delta
the checks run in stages, and a stage that finds something keeps the later ones, which rely on it,
from running. Knows nothing of files.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from adapters_store.adapter import (
    BaseIdentity,
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    SparseAdapter,
    WeightDelta,
)
from adapters_store.errors import AdapterRefused, AdapterTooLarge

MAX_REASONS = 20
VALUE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INT32_ENTRIES = 2**31

Reasons = Iterator[str]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest upload, and the most numbers that one adapter may hold."""

    max_file_bytes: int
    max_nnz: int


def check(adapter: SparseAdapter, base: BaseIdentity, limits: Limits) -> None:
    """Raise AdapterRefused, with every reason found, unless `base` can use `adapter`."""
    stored = sum(_num_values(delta) for delta in adapter.deltas)
    if stored > limits.max_nnz:
        raise AdapterTooLarge("entries", stored, limits.max_nnz)
    reasons = [*_set_reasons(adapter), *_base_reasons(adapter, base)]
    for delta in adapter.deltas:
        reasons += [f"{delta.layer}: {reason}" for reason in _delta_reasons(delta, base)]
    if reasons:
        raise AdapterRefused(capped(reasons))


def capped(reasons: list[str]) -> list[str]:
    """The first `MAX_REASONS` reasons, and how many were left out."""
    if len(reasons) <= MAX_REASONS:
        return reasons
    return [*reasons[:MAX_REASONS], f"and {len(reasons) - MAX_REASONS} more"]


def _num_values(delta: WeightDelta) -> int:
    """Numbers that are stored: for a low rank delta its factors, not the entries it changes."""
    if isinstance(delta, LowRankDelta):
        return delta.a.numel() + delta.b.numel()
    return delta.nnz


def _set_reasons(adapter: SparseAdapter) -> Reasons:
    if not adapter.deltas:
        yield "deltas: there are none"
    keys = [(delta.layer, delta.kind) for delta in adapter.deltas]
    if keys != sorted(keys):
        later = next(after for before, after in pairwise(keys) if after < before)
        yield f"deltas: not sorted by layer and kind, at {later[0]} ({later[1]})"
    for role, kinds in _kinds_by_role(adapter).items():
        if len(kinds) > 1:
            yield f"{role[0]}: more than one {role[1]} delta: {', '.join(kinds)}"


def _kinds_by_role(adapter: SparseAdapter) -> dict[tuple[str, str], list[str]]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for delta in adapter.deltas:
        role = "bias" if isinstance(delta, BiasDelta) else "weight"
        kinds.setdefault((delta.layer, role), []).append(delta.kind)
    return kinds


def _base_reasons(adapter: SparseAdapter, base: BaseIdentity) -> Reasons:
    touched = set(adapter.layers)
    for layer in sorted(set(adapter.base) - touched):
        yield f"{layer}: base digest of a layer that no delta touches"
    for layer in sorted(touched):
        if layer not in base.layers:
            yield f"{layer}: layer: unknown to the base {base.name!r}"
        elif layer not in adapter.base:
            yield f"{layer}: base digest: missing"
        elif adapter.base[layer] != base.layers[layer].digest:
            found, wanted = short(adapter.base[layer]), short(base.layers[layer].digest)
            yield f"{layer}: base digest: the file is for another base: {found}, not {wanted}"


def short(digest: str) -> str:
    """Enough of a digest to tell two apart."""
    return f"{digest[:15]}..."


def _delta_reasons(delta: WeightDelta, base: BaseIdentity) -> Reasons:
    yield from _scale_reasons(delta.scale)
    known = base.layers.get(delta.layer)
    if known and delta.shape != known.shape:
        yield f"shape: {list(delta.shape)}, but the base has {list(known.shape)}"
    if min(delta.shape) < 1:
        yield f"shape: {list(delta.shape)} has no entries"
        return
    yield from _first_stage_that_fails(delta, STAGES[delta.kind])


def _first_stage_that_fails(delta: WeightDelta, stages: "Stages") -> Reasons:
    for stage in stages:
        reasons = list(stage(delta))
        if reasons:
            yield from reasons
            return


def _scale_reasons(scale: float) -> Reasons:
    as_fp32 = torch.tensor(scale, dtype=torch.float64).to(torch.float32).item()
    if not math.isfinite(as_fp32) or as_fp32 == 0:
        yield f"scale: {scale} is not finite and non-zero in fp32"


def _form(name: str, tensor: Tensor, rank: int, dtypes: Iterable[torch.dtype]) -> Reasons:
    """Number of dimensions and dtype."""
    if tensor.dim() != rank:
        yield f"{name}: has shape {list(tensor.shape)}, expected {rank} dimensions"
    if tensor.dtype not in dtypes:
        expected = " or ".join(_dtype_name(dtype) for dtype in dtypes)
        yield f"{name}: has dtype {_dtype_name(tensor.dtype)}, expected {expected}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> Reasons:
    if tuple(tensor.shape) != expected:
        yield f"{name}: has shape {list(tensor.shape)}, expected {list(expected)}"


def _not_empty(name: str, tensor: Tensor) -> Reasons:
    if tensor.numel() == 0:
        yield f"{name}: is empty"


def _ascending(name: str, indices: Tensor, count: int) -> Reasons:
    """Sorted, unique and in `[0, count)`; the first offender is named."""
    outside = (indices < 0) | (indices >= count)
    if outside.any():
        at = int(outside.int().argmax())
        yield f"{name}: [{at}] = {int(indices[at])} is outside [0, {count})"
    stuck = indices[1:] <= indices[:-1]
    if stuck.any():
        at = int(stuck.int().argmax()) + 1
        value, before = int(indices[at]), int(indices[at - 1])
        fault = "repeats" if value == before else f"is less than {before},"
        yield f"{name}: [{at}] = {value} {fault} the entry before it; they must be sorted, unique"


def _finite(name: str, values: Tensor) -> Reasons:
    wrong = ~torch.isfinite(values).flatten()
    if wrong.any():
        at = int(wrong.int().argmax())
        value = float(values.flatten()[at])
        yield f"{name}: {int(wrong.sum())} values are not finite, the first is [{at}] = {value}"


def _element_form(delta: ElementDelta) -> Reasons:
    large = delta.shape[0] * delta.shape[1] > INT32_ENTRIES
    yield from _form("indices", delta.indices, 1, [torch.int64 if large else torch.int32])
    yield from _form("values", delta.values, 1, VALUE_DTYPES)


def _element_lengths(delta: ElementDelta) -> Reasons:
    if len(delta.indices) != len(delta.values):
        yield f"values: has {len(delta.values)} entries, but indices has {len(delta.indices)}"
    yield from _not_empty("indices", delta.indices)


def _element_content(delta: ElementDelta) -> Reasons:
    yield from _ascending("indices", delta.indices, delta.shape[0] * delta.shape[1])
    yield from _finite("values", delta.values)


def _block_form(delta: BlockDelta) -> Reasons:
    for side, size, length in zip(("rows", "columns"), delta.block, delta.shape, strict=True):
        if size < 1 or length % size:
            yield f"block: {size} {side} do not divide the weight's {length}"
    out, columns = delta.shape
    allowed = [1, out // columns] if out % columns == 0 else [1]
    if delta.row_stride not in allowed:
        yield f"row_stride: {delta.row_stride} is not one of {allowed}"
    yield from _form("block_index", delta.block_index, 1, [torch.int32])
    yield from _form("values", delta.values, 3, VALUE_DTYPES)


def _block_lengths(delta: BlockDelta) -> Reasons:
    group = delta.shape[0] // delta.row_stride
    if group % delta.block[0]:
        yield f"block: {delta.block[0]} rows do not divide the {group} rows of a stride group"
    yield from _shape("values", delta.values, (len(delta.block_index), *delta.block))
    yield from _not_empty("block_index", delta.block_index)


def _block_content(delta: BlockDelta) -> Reasons:
    tiles = (delta.shape[0] // delta.block[0]) * (delta.shape[1] // delta.block[1])
    yield from _ascending("block_index", delta.block_index, tiles)
    yield from _finite("values", delta.values)


def _low_rank_form(delta: LowRankDelta) -> Reasons:
    yield from _form("lora_A", delta.a, 2, VALUE_DTYPES)
    yield from _form("lora_B", delta.b, 2, VALUE_DTYPES)


def _low_rank_lengths(delta: LowRankDelta) -> Reasons:
    rank = delta.a.shape[0]
    if rank < 1:
        yield "lora_A: has rank 0"
    yield from _shape("lora_A", delta.a, (rank, delta.shape[1]))
    yield from _shape("lora_B", delta.b, (delta.shape[0], rank))


def _low_rank_content(delta: LowRankDelta) -> Reasons:
    yield from _finite("lora_A", delta.a)
    yield from _finite("lora_B", delta.b)


def _dense_form(delta: DenseDelta) -> Reasons:
    yield from _form("delta", delta.delta, 2, VALUE_DTYPES)
    yield from _shape("delta", delta.delta, delta.shape)


def _dense_content(delta: DenseDelta) -> Reasons:
    yield from _finite("delta", delta.delta)


def _bias_form(delta: BiasDelta) -> Reasons:
    yield from _form("bias_delta", delta.bias, 1, VALUE_DTYPES)
    yield from _shape("bias_delta", delta.bias, delta.shape[:1])


def _bias_content(delta: BiasDelta) -> Reasons:
    yield from _finite("bias_delta", delta.bias)


# Any: each stage takes the class whose kind it is listed under.
Stages = tuple[Callable[..., Reasons], ...]
STAGES: dict[str, Stages] = {
    ElementDelta.kind: (_element_form, _element_lengths, _element_content),
    BlockDelta.kind: (_block_form, _block_lengths, _block_content),
    LowRankDelta.kind: (_low_rank_form, _low_rank_lengths, _low_rank_content),
    DenseDelta.kind: (_dense_form, _dense_content),
    BiasDelta.kind: (_bias_form, _bias_content),
}
