"""What the kernels of deltas read from device memory to find their work, and how they read it.

The *table* has a row of 64-bit numbers for each part of a product; the columns are named here.
*Jobs* `[n, 2]` are (row of the table, first of its segment's pairs), each for as many pairs as a
configuration has tokens. *Launches* `[n, 3]` are (first job, past job, tiles of rows): an item of
a launch is one job's tile of rows. All of it is one buffer in device memory, so a captured graph
of kernels does another batch's work as soon as other numbers lie there.

Offsets are 32-bit numbers (64-bit ones take twice the registers) from addresses that are not: of
activations, of a delta's values, of a segment's products there are fewer than 2 ** 31.
"""

import triton.language as tl

from server.kernels.gpu.compiled import compiled

TARGET = tl.constexpr(0)  # number of the target where the first pair's row begins
SOURCE = tl.constexpr(1)  # the same of the source, where that is no row of activations
PAIR = tl.constexpr(2)  # the segment's first pair
COUNT = tl.constexpr(3)  # the segment's pairs
SCALE = tl.constexpr(4)  # the bits of an fp32 number
ROWS = tl.constexpr(5)  # of the delta; also numbers from a pair's row of the target to the next
WIDTH = tl.constexpr(6)  # columns of the delta
SIZE = tl.constexpr(7)  # what the part's own kernel says
FIRST = tl.constexpr(8)  # addresses of arrays
SECOND = tl.constexpr(9)
THIRD = tl.constexpr(10)
FOURTH = tl.constexpr(11)
FIFTH = tl.constexpr(12)
NUM_COLUMNS = tl.constexpr(13)
JOB_NUMBERS = tl.constexpr(2)
LAUNCH_NUMBERS = tl.constexpr(3)


@compiled
def items(launch: tl.tensor) -> tl.tensor:
    """The first and the past item of a launch, and tiles of rows of each job."""
    tiles = tl.load(launch + 2).to(tl.int32)
    first, past = tl.load(launch).to(tl.int32), tl.load(launch + 1).to(tl.int32)
    return first * tiles, past * tiles, tiles


@compiled
def job(table: tl.tensor, jobs: tl.tensor, number: tl.tensor) -> tl.tensor:
    """The row of the table that a job is of, and the first of the pairs that it is for."""
    row = tl.load(jobs + number * JOB_NUMBERS)
    start = tl.load(jobs + number * JOB_NUMBERS + 1).to(tl.int32)
    return table + row * NUM_COLUMNS, start


@compiled
def read(own: tl.tensor, column: tl.constexpr) -> tl.tensor:
    """A number of a row of the table that fits in 32 bits."""
    return tl.load(own + column).to(tl.int32)


@compiled
def array(own: tl.tensor, column: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Where an array begins: every tensor of its own begins at 16 bytes."""
    return tl.multiple_of(tl.load(own + column).to(tl.pointer_type(dtype)), 16)


@compiled
def scale_of(own: tl.tensor) -> tl.tensor:
    return read(own, SCALE).to(tl.float32, bitcast=True)


@compiled
def input_rows(own: tl.tensor, tokens: tl.tensor, pairs: tl.tensor, is_own: tl.tensor) -> tl.tensor:
    """Where, among the activations `[T, WIDTH]`, those of a segment's `pairs` begin."""
    token = tl.load(tokens + read(own, PAIR) + pairs, is_own, 0)
    return token.to(tl.int32) * read(own, WIDTH)


@compiled
def store_rows(
    own: tl.tensor,
    target: tl.tensor,
    pairs: tl.tensor,
    rows: tl.tensor,
    mask: tl.tensor,
    made: tl.tensor,
) -> None:
    """Write `scale * made [pairs, rows]` to the target's places of these pairs and rows."""
    places = (pairs * read(own, ROWS))[:, None] + rows[None, :]
    tl.store(target + tl.load(own + TARGET) + places, scale_of(own) * made, mask)
