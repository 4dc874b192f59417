"""What the kernels of deltas read from device memory to find their work, and how they read it.

All of it are 64-bit numbers in one buffer, so a captured graph of kernels does another batch's work
as soon as other numbers lie there. A *slot* is one kind of operand of one adapter of a step.

* *Parts* `[slots, PART_NUMBERS]` of a layer: what the slot is there, whatever the batch: rows,
  columns, addresses. Zeros where the adapter leaves the layer alone.
* *Slots* `[slots, SLOT_NUMBERS]` of a step: its pairs, and where their products go, in any layer.
* *Jobs* `[n, 2]` are (slot, first of its pairs), for as many pairs as a configuration has tokens.
* *Launches* `[n, 4]` are (first job, past job, tiles of rows): an item of a launch is one job's
  tile of rows. A job whose part ends before the tile has nothing to do there.

Offsets are 32-bit numbers (64-bit ones take twice the registers) from addresses that are not: of
activations, of a delta's values, of a slot's products there are fewer than 2 ** 31.
"""

import triton.language as tl

from server.kernels.gpu.compiled import compiled

# Of a part.
ROWS = tl.constexpr(0)  # of the delta; also numbers from a pair's row of the target to the next
WIDTH = tl.constexpr(1)  # columns of the delta
SCALE = tl.constexpr(2)  # the bits of an fp32 number
SIZE = tl.constexpr(3)  # what the part's own kernel says
FIRST = tl.constexpr(4)  # addresses of arrays
SECOND = tl.constexpr(5)
THIRD = tl.constexpr(6)
FOURTH = tl.constexpr(7)
FIFTH = tl.constexpr(8)
PART_NUMBERS = tl.constexpr(10)  # even, so that a layer's parts begin at 16 bytes

# Of a slot.
PAIR = tl.constexpr(0)  # the first pair
COUNT = tl.constexpr(1)  # the pairs
TARGET = tl.constexpr(2)  # number of the target where rows begin
ROW = tl.constexpr(3)  # the row there of the first pair
SOURCE = tl.constexpr(4)  # number of the source where it begins, if that is no row of activations
SLOT_NUMBERS = tl.constexpr(6)

JOB_NUMBERS = tl.constexpr(2)
LAUNCH_NUMBERS = tl.constexpr(4)
SUM_NUMBERS = tl.constexpr(4)  # product, its pair and its slot: what is added to a token


@compiled
def items(launch: tl.tensor) -> tl.tensor:
    """The first and the past item of a launch, and tiles of rows of each job."""
    tiles = tl.load(launch + 2).to(tl.int32)
    first, past = tl.load(launch).to(tl.int32), tl.load(launch + 1).to(tl.int32)
    return first * tiles, past * tiles, tiles


@compiled
def job(parts: tl.tensor, slots: tl.tensor, jobs: tl.tensor, number: tl.tensor) -> tl.tensor:
    """The part and the slot that a job is of, and the first of the pairs that it is for."""
    slot = tl.load(jobs + number * JOB_NUMBERS)
    start = tl.load(jobs + number * JOB_NUMBERS + 1).to(tl.int32)
    return parts + slot * PART_NUMBERS, slots + slot * SLOT_NUMBERS, start


@compiled
def read(numbers: tl.tensor, column: tl.constexpr) -> tl.tensor:
    """A number of a part or of a slot that fits in 32 bits."""
    return tl.load(numbers + column).to(tl.int32)


@compiled
def array(part: tl.tensor, column: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Where an array begins: every tensor of its own begins at 16 bytes."""
    return tl.multiple_of(tl.load(part + column).to(tl.pointer_type(dtype)), 16)


@compiled
def scale_of(part: tl.tensor) -> tl.tensor:
    return read(part, SCALE).to(tl.float32, bitcast=True)


@compiled
def input_rows(
    part: tl.tensor,
    slot: tl.tensor,
    tokens: tl.tensor,
    pairs: tl.tensor,
    is_own: tl.tensor,
    RUN: tl.constexpr,
) -> tl.tensor:
    """Where, among the activations `[T, WIDTH]`, those of a slot's `pairs` begin.

    WIDTH is a multiple of RUN. That is told here: of what a function returns it would be lost.
    """
    token = input_tokens(slot, tokens, pairs, is_own)
    return tl.multiple_of(token * read(part, WIDTH), [RUN])


@compiled
def input_tokens(
    slot: tl.tensor, tokens: tl.tensor, pairs: tl.tensor, is_own: tl.tensor
) -> tl.tensor:
    """Of which token of the step each of a slot's `pairs` is."""
    return tl.load(tokens + read(slot, PAIR) + pairs, is_own, 0).to(tl.int32)


@compiled
def store_rows(
    part: tl.tensor,
    slot: tl.tensor,
    target: tl.tensor,
    pairs: tl.tensor,
    rows: tl.tensor,
    mask: tl.tensor,
    made: tl.tensor,
) -> None:
    """Write `scale * made [pairs, rows]` to the target's places of these pairs and rows."""
    num_rows = tl.load(part + ROWS)
    begin = target + tl.load(slot + TARGET) + tl.load(slot + ROW) * num_rows
    places = (pairs * num_rows.to(tl.int32))[:, None] + rows[None, :]
    tl.store(begin + places, scale_of(part) * made, mask)
