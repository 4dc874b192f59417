"""Products with element-sparse deltas, and with 1 x 16 blocks: runs of columns in SELL-32.

A slice is 32 rows of similar length, one to a lane. Its *body* has as many steps as most of its
rows need, each of 32 runs, one a lane; a longer row's rest is a *tail*: steps of 32 runs that are
all of that row. An item of work is one slice, for the tokens of one job.

Owner: a pair's row of the target has ROWS places, each row of the weight is one lane of one
slice, and (job, slice) is one item of one program. So every place is written once, by one
program, and nothing is added in memory: no atomics, no order to depend on. Within an item, steps
are added in the order in which they lie.

Bytes read of a delta: an entry's value and 2 bytes of column (an eighth of a byte for a run of
16), and of each slice 76 bytes: 4.1 an entry at 31 entries a row and 16-bit values. They are read
once for each job; activations come from the caches.
"""

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.table import (
    COUNT,
    FIFTH,
    FIRST,
    FOURTH,
    ROWS,
    SECOND,
    THIRD,
    array,
    input_rows,
    items,
    job,
    read,
    store_rows,
)

LANES = tl.constexpr(32)
WINDOW_ROWS = tl.constexpr(512)  # a lane's row is told by its place in the window
BOUNDS = tl.constexpr(3)  # of a slice: first step, past body, first tail
TAIL_BOUNDS = tl.constexpr(3)  # lane, first step, past step


@compiled
def _multiply_runs(
    target: tl.tensor,
    x: tl.tensor,
    tokens: tl.tensor,
    parts: tl.tensor,
    slots: tl.tensor,
    jobs: tl.tensor,
    launch: tl.tensor,
    VALUES: tl.constexpr,
    RUN: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    first, past, slices = items(launch)
    for item in range(first + tl.program_id(0), past, tl.num_programs(0)):
        part, slot, start = job(parts, slots, jobs, item // slices)
        at = item % slices
        if at * LANES < read(part, ROWS):
            _multiply_slice(target, x, tokens, part, slot, start, at, VALUES, RUN, TOKENS, STEPS)


@compiled
def _multiply_slice(
    target: tl.tensor,
    x: tl.tensor,
    tokens: tl.tensor,
    part: tl.tensor,
    slot: tl.tensor,
    start: tl.tensor,
    at: tl.tensor,
    VALUES: tl.constexpr,
    RUN: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    bounds = array(part, FIRST, tl.int32) + at * BOUNDS
    tails = array(part, SECOND, tl.int32)
    columns = array(part, FOURTH, tl.uint16)
    values = array(part, FIFTH, VALUES)
    pairs = start + tl.arange(0, TOKENS)
    is_own = pairs < read(slot, COUNT)
    inputs = input_rows(part, slot, tokens, pairs, is_own, RUN)
    begin, end = tl.load(bounds), tl.load(bounds + 1)
    sums = _sum_steps(x, inputs, is_own, columns, values, begin, end, RUN, TOKENS, STEPS)
    made = tl.sum(tl.reshape(tl.sum(sums, 1), [TOKENS, LANES, RUN]), 2)
    lanes = tl.arange(0, LANES)
    for tail in range(tl.load(bounds + 2), tl.load(bounds + BOUNDS + 2)):
        lane = tl.load(tails + tail * TAIL_BOUNDS)
        begin = tl.load(tails + tail * TAIL_BOUNDS + 1)
        end = tl.load(tails + tail * TAIL_BOUNDS + 2)
        sums = _sum_steps(x, inputs, is_own, columns, values, begin, end, RUN, TOKENS, STEPS)
        rest = tl.sum(tl.sum(sums, 2), 1)
        made += tl.where(lanes[None, :] == lane, rest[:, None], 0.0)
    places = tl.load(array(part, THIRD, tl.uint16) + at * LANES + lanes).to(tl.int32)
    rows = at * LANES // WINDOW_ROWS * WINDOW_ROWS + places
    is_row = places < WINDOW_ROWS  # a lane without a row is told by a larger number
    store_rows(part, slot, target, pairs, rows, is_own[:, None] & is_row[None, :], made)


@compiled
def _sum_steps(
    x: tl.tensor,
    inputs: tl.tensor,
    is_own: tl.tensor,
    columns: tl.tensor,
    values: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    RUN: tl.constexpr,
    TOKENS: tl.constexpr,
    STEPS: tl.constexpr,
) -> tl.tensor:
    """Sums `[TOKENS, STEPS, LANES * RUN]` of the products of the steps from `begin` to `end`."""
    numbers = tl.arange(0, LANES * RUN)
    sums = tl.zeros([TOKENS, STEPS, LANES * RUN], tl.float32)
    for first in range(begin, end, STEPS):
        steps = first + tl.arange(0, STEPS)
        is_step = (steps < end)[:, None]
        run = steps[:, None] * LANES + (numbers // RUN)[None, :]
        column = tl.load(columns + run, is_step, 0).to(tl.int32) + (numbers % RUN)[None, :]
        if x.dtype.element_ty.primitive_bitwidth == 16:  # of wider ones, vectors spill registers
            column = tl.max_contiguous(tl.multiple_of(column, [1, RUN]), [1, RUN])
        at = steps[:, None] * (LANES * RUN) + numbers[None, :]
        value = tl.load(values + at, is_step, 0.0).to(tl.float32)
        places = inputs[:, None, None] + column[None, :, :]
        factor = tl.load(x + places, is_own[:, None, None] & is_step[None, :, :], 0.0)
        sums += factor.to(tl.float32) * value[None, :, :]
    return sums


SIGNATURE = {
    "target": "*fp32",
    "x": "*x",
    "tokens": "*i64",
    "parts": "*i64",
    "slots": "*i64",
    "jobs": "*i64",
    "launch": "*i64",
}
MULTIPLY_ENTRIES = Kernel(
    _multiply_runs,
    SIGNATURE,
    (
        Configuration({"RUN": 1, "TOKENS": 1, "STEPS": 8}, num_warps=2),
        Configuration({"RUN": 1, "TOKENS": 8, "STEPS": 4}, num_warps=4),
    ),
)
MULTIPLY_RUNS = Kernel(
    _multiply_runs,
    SIGNATURE,
    (
        Configuration({"RUN": 16, "TOKENS": 1, "STEPS": 2}, num_warps=4),
        Configuration({"RUN": 16, "TOKENS": 4, "STEPS": 1}, num_warps=4),
    ),
)
