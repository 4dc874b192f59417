"""Products with whole matrices: both factors of a low-rank delta, and dense deltas.

A panel is PANEL_ROWS rows of a matrix `[ROWS, WIDTH]`. An item of work is one panel, for the
tokens of one job. What is multiplied by it are rows of activations (A of a low-rank delta, a
dense delta), or what A left for each pair (B).

Owner: (job, panel) is one item of one program, which alone writes the panel's places of its job's
pairs. A's results are written by one launch and read by a later one, in the same stream. Columns
are added in ascending order, DEPTH at a time.

Bytes read of a delta: its values, once for each job.
"""

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import add_product, joined, no_sums
from server.kernels.gpu.runs import SIGNATURE
from server.kernels.gpu.table import (
    COUNT,
    FIRST,
    ROWS,
    SOURCE,
    WIDTH,
    array,
    input_tokens,
    items,
    job,
    read,
    store_rows,
)

VECTOR = tl.constexpr(8)  # columns: 16 bytes of 16-bit numbers, which one instruction reads


@compiled
def _multiply_panels(
    target: tl.tensor,
    x: tl.tensor,
    tokens: tl.tensor,
    parts: tl.tensor,
    slots: tl.tensor,
    jobs: tl.tensor,
    launch: tl.tensor,
    VALUES: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    INTERPRETED: tl.constexpr,
    DOT: tl.constexpr,
    TOKENS: tl.constexpr,
    PANEL_ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    first, past, panels = items(launch)
    for item in range(first + tl.program_id(0), past, tl.num_programs(0)):
        part, slot, start = job(parts, slots, jobs, item // panels)
        rows = item % panels * PANEL_ROWS + tl.arange(0, PANEL_ROWS)
        is_row = rows < read(part, ROWS)
        if item % panels * PANEL_ROWS < read(part, ROWS):
            pairs = start + tl.arange(0, TOKENS)
            is_own = pairs < read(slot, COUNT)
            matrix, width = array(part, FIRST, VALUES), read(part, WIDTH)
            if BY_TOKEN:
                source, inputs = x, input_tokens(slot, tokens, pairs, is_own)
            else:
                source, inputs = x + tl.load(slot + SOURCE), pairs
            if width % VECTOR == 0:
                made = _panel(
                    matrix,
                    source,
                    inputs,
                    is_own,
                    rows,
                    is_row,
                    width // VECTOR * VECTOR,  # the width; the compiler sees what divides it
                    INTERPRETED,
                    DOT,
                    TOKENS,
                    PANEL_ROWS,
                    DEPTH,
                )
            else:
                made = _panel(
                    matrix,
                    source,
                    inputs,
                    is_own,
                    rows,
                    is_row,
                    width,
                    INTERPRETED,
                    DOT,
                    TOKENS,
                    PANEL_ROWS,
                    DEPTH,
                )
            mask = is_own[:, None] & is_row[None, :]
            store_rows(part, slot, target, pairs, rows, mask, made)


@compiled
def _panel(
    matrix: tl.tensor,
    source: tl.tensor,
    inputs: tl.tensor,
    is_own: tl.tensor,
    rows: tl.tensor,
    is_row: tl.tensor,
    width: tl.tensor,
    INTERPRETED: tl.constexpr,
    DOT: tl.constexpr,
    TOKENS: tl.constexpr,
    PANEL_ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    """The products `[TOKENS, PANEL_ROWS]` of rows `inputs` with the matrix's `rows`."""
    starts, inputs = rows * width, inputs * width
    sums = no_sums(DOT, TOKENS, PANEL_ROWS, DEPTH)
    for first in range(0, width, DEPTH):
        columns = first + tl.arange(0, DEPTH)
        is_column = (columns < width)[None, :]
        weights = matrix + (starts[:, None] + columns[None, :])
        weights = tl.load(weights, is_row[:, None] & is_column, 0.0)
        factors = source + (inputs[:, None] + columns[None, :])
        factors = tl.load(factors, is_own[:, None] & is_column, 0.0)
        sums = add_product(sums, factors, weights, DOT, INTERPRETED)
    return joined(sums, DOT)


MULTIPLY_PANELS = Kernel(
    _multiply_panels,
    SIGNATURE,
    (
        Configuration({"DOT": False, "TOKENS": 1, "PANEL_ROWS": 16, "DEPTH": 64}, num_warps=4),
        Configuration({"DOT": False, "TOKENS": 8, "PANEL_ROWS": 16, "DEPTH": 32}, num_warps=4),
        Configuration(
            {"DOT": True, "TOKENS": 16, "PANEL_ROWS": 32, "DEPTH": 32}, num_warps=4, num_stages=3
        ),
        Configuration(
            {"DOT": True, "TOKENS": 64, "PANEL_ROWS": 32, "DEPTH": 32}, num_warps=4, num_stages=3
        ),
    ),
)
