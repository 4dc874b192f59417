"""What lies between the products: norms, gates, and heads on their way into the cache.

Owners: a program of `NORM_ROWS` is one token's row; of `GATE_ROWS` one token's BLOCK outputs; of
`PLACE_HEADS` one head of one token, which goes to the query's own place or to the slot of that
token, and no two tokens have one slot. So no place has two writers.

Bytes: each input is read once and each output written once, in the activations' dtype; RoPE's
cosines and sines once for each head, from the caches.
"""

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import rounded

LARGEST_EXPONENT = tl.constexpr(88.0)  # whose power of e is an fp32 number


@compiled
def _norm_rows(
    y: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`y = weight * round(x / rms(x))` over rows of `width` numbers, BLOCK at a time."""
    row = tl.program_id(0).to(tl.int64) * width
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        own = tl.load(x + row + columns, columns < width, 0.0).to(tl.float32)
        squares += own * own
    inverse = 1.0 / tl.sqrt_rn(tl.sum(squares, 0) / width + eps)
    dtype: tl.constexpr = y.dtype.element_ty
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        is_column = columns < width
        own = tl.load(x + row + columns, is_column, 0.0).to(tl.float32)
        normed = rounded(own * inverse, dtype, INTERPRETED).to(tl.float32)
        factor = tl.load(weight + columns, is_column, 0.0).to(tl.float32)
        tl.store(y + row + columns, rounded(factor * normed, dtype, INTERPRETED), is_column)


@compiled
def _gate_rows(
    y: tl.tensor,
    gate_up: tl.tensor,
    width: tl.tensor,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`y [T, width] = round(silu(gate)) * up` of `[T, 2 * width]`, gate before up."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < width
    dtype: tl.constexpr = y.dtype.element_ty
    at = gate_up + token * 2 * width + columns
    gate = tl.load(at, is_column, 0.0).to(tl.float32)
    up = tl.load(at + width, is_column, 0.0).to(tl.float32)
    exponent = tl.minimum(-gate, LARGEST_EXPONENT)
    gated = rounded(gate / (1.0 + tl.exp(exponent)), dtype, INTERPRETED).to(tl.float32)
    tl.store(y + token * width + columns, rounded(gated * up, dtype, INTERPRETED), is_column)


@compiled
def _place_heads(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    heads: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    slots: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    size: tl.tensor,
    rotary: tl.tensor,
    page_size: tl.tensor,
    key_page: tl.tensor,
    key_slot: tl.tensor,
    key_head: tl.tensor,
    key_number: tl.tensor,
    value_page: tl.tensor,
    value_slot: tl.tensor,
    value_head: tl.tensor,
    value_number: tl.tensor,
    INTERPRETED: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Put HEADS heads of `heads [T, H + 2 K, size]` where they go: queries and keys rotated.

    `key_...` and `value_...` are the caches' strides.
    """
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    first_key, first_value = num_heads, num_heads + num_kv_heads
    is_head = head < first_value + num_kv_heads
    own = heads + (token * (first_value + num_kv_heads) + head) * size
    slot = tl.load(slots + token)
    page, inner = slot // page_size, slot % page_size
    key_at = page * key_page + inner * key_slot + (head - first_key) * key_head
    value_at = page * value_page + inner * value_slot + (head - first_value) * value_head
    turns = token * rotary
    for first in range(0, size, BLOCK):
        number = (first + tl.arange(0, BLOCK))[None, :]
        mask = is_head & (number < size)
        is_turned = mask & (number < rotary) & (head < first_value)
        made = _rotated(own, cos + turns, sin + turns, number, mask, is_turned, rotary, INTERPRETED)
        at = (token * num_heads + head) * size + number
        tl.store(query + at, made, mask & (head < first_key))
        is_key = mask & (head >= first_key) & (head < first_value)
        tl.store(keys + key_at + number * key_number, made, is_key)
        tl.store(values + value_at + number * value_number, made, mask & (head >= first_value))


@compiled
def _rotated(
    own: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    number: tl.tensor,
    mask: tl.tensor,
    is_turned: tl.tensor,
    rotary: tl.tensor,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:
    """These numbers of heads: what `is_turned` by its half's partner, the rest as it is."""
    half = rotary // 2
    partner = tl.where(number < half, number + half, number - half)
    made = tl.load(own + number, mask, 0.0).to(tl.float32)
    other = tl.load(own + partner, is_turned, 0.0).to(tl.float32)
    other = tl.where(number < half, -other, other)
    turn = made * tl.load(cos + number, number < rotary, 0.0).to(tl.float32)
    turn += other * tl.load(sin + number, number < rotary, 0.0).to(tl.float32)
    return rounded(tl.where(is_turned, turn, made), own.dtype.element_ty, INTERPRETED)


NORM_ROWS = Kernel(
    _norm_rows,
    {"y": "*x", "x": "*x", "weight": "*x", "width": "i32", "eps": "fp32"},
    (Configuration({"BLOCK": 1024}, num_warps=4),),
)
GATE_ROWS = Kernel(
    _gate_rows,
    {"y": "*x", "gate_up": "*x", "width": "i32"},
    (Configuration({"BLOCK": 1024}, num_warps=4),),
)
TENSORS = ("query", "keys", "values", "heads", "cos", "sin")
NUMBERS = ("num_heads", "num_kv_heads", "size", "rotary", "page_size")
STRIDES = tuple(
    f"{of}_{part}" for of in ("key", "value") for part in ("page", "slot", "head", "number")
)
PLACE_HEADS = Kernel(
    _place_heads,
    {**dict.fromkeys(TENSORS, "*x"), "slots": "*i64", **dict.fromkeys(NUMBERS + STRIDES, "i32")},
    (Configuration({"HEADS": 8, "BLOCK": 128}, num_warps=4),),
)
