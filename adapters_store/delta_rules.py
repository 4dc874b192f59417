"""What makes each kind of delta well formed, as stages of checks.

A stage relies on those before it. Every reason names the field and the value. Knows no base and
no adapter.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)

VALUE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INT32_ENTRIES = 2**31
INFINITY_BITS = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
MAGNITUDE_BITS = np.int16(0x7FFF)

Reasons = Iterator[str]


def form_reasons(delta: WeightDelta) -> Reasons:
    """Why `delta` is not well formed: what its scale and its first failing stage find."""
    yield from _scale_reasons(delta.scale)
    for stage in _STAGES[delta.kind]:
        reasons = list(stage(delta))
        if reasons:
            yield from reasons
            return


def _scale_reasons(scale: float) -> Reasons:
    as_fp32 = torch.tensor(scale, dtype=torch.float64).to(torch.float32).item()
    if not math.isfinite(as_fp32) or as_fp32 == 0:
        yield f"scale: {scale} is not finite and non-zero in fp32"


def _shape_form(delta: WeightDelta) -> Reasons:
    if min(delta.shape) < 1:
        yield f"shape: {list(delta.shape)} has no entries"


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
    if _are_ascending(indices, count):
        return
    # Not `>= count`: as an int32 the count 2**31 would wrap around.
    outside = (indices < 0) | (indices > count - 1)
    if outside.any():
        at = int(outside.int().argmax())
        yield f"{name}: [{at}] = {int(indices[at])} is outside [0, {count})"
    stuck = indices[1:] <= indices[:-1]
    if stuck.any():
        at = int(stuck.int().argmax()) + 1
        value, before = int(indices[at]), int(indices[at - 1])
        fault = "repeats" if value == before else f"is less than {before},"
        yield f"{name}: [{at}] = {value} {fault} the entry before it; they must be sorted, unique"


def _are_ascending(indices: Tensor, count: int) -> bool:
    """By one comparison of each: a cold adapter waits for it, and NumPy has it vectorized."""
    numbers = indices.detach().cpu().numpy()
    if len(numbers) == 0:
        return True
    is_inside = bool(numbers[0] >= 0 and numbers[-1] < count)
    return is_inside and bool((numbers[1:] > numbers[:-1]).all())


def _finite(name: str, values: Tensor) -> Reasons:
    if _are_finite(values):
        return
    wrong = ~torch.isfinite(values).flatten()
    if wrong.any():
        at = int(wrong.int().argmax())
        value = float(values.flatten()[at])
        yield f"{name}: {int(wrong.sum())} values are not finite, the first is [{at}] = {value}"


def _are_finite(values: Tensor) -> bool:
    """Of 16 bits, by the largest pattern without its sign: from infinity's on none is finite."""
    flat = values.detach().cpu().reshape(-1)
    if flat.dtype not in INFINITY_BITS:
        return bool(np.isfinite(flat.numpy()).all())
    magnitudes = flat.view(torch.int16).numpy() & MAGNITUDE_BITS
    return magnitudes.size == 0 or int(magnitudes.max()) < INFINITY_BITS[flat.dtype]


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
_STAGES: dict[str, tuple[Callable[..., Reasons], ...]] = {
    ElementDelta.kind: (_shape_form, _element_form, _element_lengths, _element_content),
    BlockDelta.kind: (_shape_form, _block_form, _block_lengths, _block_content),
    LowRankDelta.kind: (_shape_form, _low_rank_form, _low_rank_lengths, _low_rank_content),
    DenseDelta.kind: (_shape_form, _dense_form, _dense_content),
    BiasDelta.kind: (_shape_form, _bias_form, _bias_content),
}
