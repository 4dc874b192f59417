"""Causal attention over a paged cache: tiles of queries, a block of keys at a time.

An item of work is one row of the list (`attention_list.py`) for one key head: up to ROWS rows,
which are (token, query head) pairs that share that key head, so each loaded key serves all of
them. Softmax is online: the largest score so far, the sum and the weighted values beside it, all
fp32. Scores are powers of 2, whose scale has log2(e).

Owner: (tile, split, key head) is one item of one program. A tile's rows are its own, so what it
writes, an output or the piece of a split, has no second writer: no atomics, no order to depend on.
Merges, of a later launch in the same stream, own one (token, head) of the output each.

Bytes read: keys and values once for each tile that sees them, by whole runs of 16 tokens or
numbers; scratch only of split contexts: 4 bytes a number and piece, once written and once read.
"""

from functools import partial

import triton.language as tl

from server.kernels.gpu.attention_list import (
    KEY,
    KEYS,
    MOST_SPLITS,
    NARROW_ROWS,
    NUM_COLUMNS,
    PAST_KEY,
    PAST_ROW,
    PIECE,
    POSITION,
    ROW,
    SEQUENCE,
    SPLITS,
    TOKEN,
    WIDE_ROWS,
)
from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import rounded
from server.kernels.gpu.table import read


@partial(compiled, varying=("table_row",))
def _attend(
    output: tl.tensor,
    sums: tl.tensor,
    tops: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    tables: tl.tensor,
    work: tl.tensor,
    scale: tl.tensor,
    window: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    page_bits: tl.tensor,
    table_row: tl.tensor,
    table_page: tl.tensor,
    key_page: tl.tensor,
    key_head: tl.tensor,
    key_number: tl.tensor,
    value_page: tl.tensor,
    value_head: tl.tensor,
    value_slot: tl.tensor,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    RUN: tl.constexpr,
    LAUNCH: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    """Every tile of a launch, in PARTS of ROWS. `table_...`, `key_...` and `value_...` are strides.

    Heads are of SIZE numbers, in DEPTH places; RUN numbers lie together and begin at a multiple of
    RUN, of a key's tokens and of a value.
    """
    first = read(work, LAUNCH)
    num_parts = (read(work, LAUNCH + 1) - first) * PARTS
    group = num_heads // num_kv_heads
    number = tl.arange(0, DEPTH)
    is_number = number < SIZE
    for item in range(tl.program_id(0), num_parts * num_kv_heads, tl.num_programs(0)):
        part, kv_head = item % num_parts, item // num_parts
        own = work + (first + part // PARTS) * NUM_COLUMNS
        first_row, past_row = read(own, ROW) + part % PARTS * ROWS, read(own, PAST_ROW)
        past_key = tl.where(first_row < past_row, read(own, PAST_KEY), 0)
        row = first_row + tl.arange(0, ROWS)
        is_row = row < past_row
        token = row // group
        head = kv_head * group + row % group
        mask = is_row[:, None] & is_number[None, :]
        at = (read(own, TOKEN) + token) * num_heads + head
        place = at[:, None] * SIZE + number[None, :]
        made, top, total = _tile(
            tl.load(query + place, mask, 0.0),
            read(own, POSITION) + token,
            read(own, KEY),
            past_key,
            tables + read(own, SEQUENCE) * table_row,
            keys + tl.multiple_of(kv_head * key_head, RUN),
            values + tl.multiple_of(kv_head * value_head, RUN),
            scale,
            window,
            page_bits,
            table_page,
            key_page,
            key_number,
            value_page,
            value_slot,
            INTERPRETED,
            SIZE,
            DEPTH,
            RUN,
            ROWS,
            KEYS,
        )
        piece = read(own, PIECE)
        if piece < 0:
            made = made / tl.where(total > 0.0, total, 1.0)[:, None]
            tl.store(output + place, rounded(made, output.dtype.element_ty, INTERPRETED), mask)
        else:
            at = (piece + token * read(own, SPLITS)) * num_heads + head
            tl.store(sums + (at[:, None] * SIZE + number[None, :]), made, mask)
            tl.store(tops + 2 * at, top, is_row)
            tl.store(tops + 2 * at + 1, total, is_row)


@compiled
def _tile(
    query: tl.tensor,
    position: tl.tensor,
    first: tl.tensor,
    past: tl.tensor,
    table: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    scale: tl.tensor,
    window: tl.tensor,
    page_bits: tl.tensor,
    table_page: tl.tensor,
    key_page: tl.tensor,
    key_number: tl.tensor,
    value_page: tl.tensor,
    value_slot: tl.tensor,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    RUN: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
) -> tl.tensor:
    """What `query [ROWS, DEPTH]` at `position [ROWS]` makes of the keys from `first` to `past`.

    Values weighted by powers of 2, largest score, and sum of the powers, of each row.
    """
    number = tl.arange(0, DEPTH)
    is_number = number < SIZE
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    made = tl.zeros([ROWS, DEPTH], tl.float32)
    for begin in range(first // KEYS * KEYS, past, KEYS):
        at = begin + tl.arange(0, KEYS)
        is_key = (at >= first) & (at < past)
        # Of keys, a run is read whole: one that is partly seen lies in one page of the sequence.
        run = at // RUN * RUN
        is_run = tl.max_constancy((run + RUN > first) & (run < past), [RUN])
        page = tl.load(table + (at >> page_bits) * table_page, is_run, 0)
        slot = at & ((1 << page_bits) - 1)
        key_at = tl.max_contiguous(tl.multiple_of(page * key_page + slot, [RUN]), [RUN])
        key = keys + key_at[None, :] + tl.multiple_of(number * key_number, [RUN])[:, None]
        key = tl.load(key, is_number[:, None] & is_run[None, :], 0.0)
        score = _product(query, key, tl.zeros([ROWS, KEYS], tl.float32), INTERPRETED) * scale
        ago = position[:, None] - at[None, :]
        is_seen = is_key[None, :] & (ago >= 0) & (ago < window)
        score = tl.where(is_seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # of a row that has seen nothing yet
        weight = tl.exp2(score - base[:, None])
        shrunk = tl.exp2(top - base)
        total = total * shrunk + tl.sum(weight, 1)
        value_at = tl.multiple_of(page * value_page + slot * value_slot, [RUN])
        value = values + value_at[:, None] + number[None, :]
        value = tl.load(value, is_key[:, None] & is_number[None, :], 0.0)
        weight = rounded(weight, value.dtype, INTERPRETED)
        made = _product(weight, value, made * shrunk[:, None], INTERPRETED)
        top = higher
    return made, top, total


@compiled
def _product(
    left: tl.tensor, right: tl.tensor, sums: tl.tensor, INTERPRETED: tl.constexpr
) -> tl.tensor:
    """`sums + left @ right`; in fp32 where INTERPRETED, since there `tl.dot` of bf16 is wrong."""
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), sums)
    else:
        return tl.dot(left, right, sums, input_precision="tf32x3")


@compiled
def _merge(
    output: tl.tensor,
    sums: tl.tensor,
    tops: tl.tensor,
    work: tl.tensor,
    num_heads: tl.tensor,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    LAUNCH: tl.constexpr,
    PIECES: tl.constexpr,
) -> None:
    """Outputs of tokens whose contexts were split: (token, head) is one item of one program."""
    first = read(work, LAUNCH)
    num_items = (read(work, LAUNCH + 1) - first) * num_heads
    number = tl.arange(0, DEPTH)
    is_number = number < SIZE
    piece = tl.arange(0, PIECES)
    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        own = work + (first + item // num_heads) * NUM_COLUMNS
        head = item % num_heads
        is_piece = piece < read(own, SPLITS)
        at = (read(own, PIECE) + piece) * num_heads + head
        top = tl.load(tops + 2 * at, is_piece, float("-inf"))
        share = tl.exp2(top - tl.max(top, 0))
        total = tl.sum(share * tl.load(tops + 2 * at + 1, is_piece, 0.0), 0)
        place = at[:, None] * SIZE + number[None, :]
        made = tl.load(sums + place, is_piece[:, None] & is_number[None, :], 0.0)
        made = tl.sum(made * share[:, None], 0) / total
        made = rounded(made, output.dtype.element_ty, INTERPRETED)
        token = read(own, TOKEN)
        tl.store(output + (token * num_heads + head) * SIZE + number, made, is_number)


STRIDES = (
    "table_row",
    "table_page",
    "key_page",
    "key_head",
    "key_number",
    "value_page",
    "value_head",
    "value_slot",
)
SHAPE = ("window", "num_heads", "num_kv_heads", "page_bits")
NARROW = {"LAUNCH": 0, "PARTS": 1, "ROWS": NARROW_ROWS, "KEYS": KEYS}
WIDE = {"LAUNCH": 1, "PARTS": 1, "ROWS": WIDE_ROWS, "KEYS": KEYS}
WIDE_BY_PARTS = {**NARROW, "LAUNCH": 1, "PARTS": WIDE_ROWS // NARROW_ROWS}
FORMS_16_BIT = (
    Configuration(NARROW, num_warps=4, num_stages=3),
    Configuration(WIDE, num_warps=4, num_stages=2),
)
FORMS_32_BIT = (Configuration(NARROW, num_warps=4), Configuration(WIDE_BY_PARTS, num_warps=4))
ATTEND = Kernel(
    _attend,
    {
        "output": "*x",
        "sums": "*fp32",
        "tops": "*fp32",
        **dict.fromkeys(("query", "keys", "values"), "*x"),
        **dict.fromkeys(("tables", "work"), "*i64"),
        "scale": "fp32",
        **dict.fromkeys(SHAPE + STRIDES, "i32"),
    },
    FORMS_16_BIT + FORMS_32_BIT,
)
MERGE = Kernel(
    _merge,
    {"output": "*x", "sums": "*fp32", "tops": "*fp32", "work": "*i64", "num_heads": "i32"},
    (Configuration({"LAUNCH": 2, "PIECES": MOST_SPLITS}, num_warps=4),),
)
