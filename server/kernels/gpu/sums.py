"""What a token's deltas come to: biases as products, and the one sum that is rounded.

`add_products` is the last kernel of a linear layer. Owner: a program is one token's BLOCK columns
of the output, and nobody else writes there. It adds the token's products to the base's fp32
number in the order that it is given, the order of the adapters' digests, and rounds once.

Bytes read: of each product 4 bytes an output, from the level-2 cache where they were just
written, and 4 for the base's; written: the output's own.
"""

import triton.language as tl

from server.kernels.gpu.compiled import Configuration, Kernel, compiled
from server.kernels.gpu.products import rounded
from server.kernels.gpu.runs import SIGNATURE
from server.kernels.gpu.table import (
    COUNT,
    FIRST,
    PART_NUMBERS,
    ROWS,
    SUM_NUMBERS,
    array,
    items,
    job,
    read,
    store_rows,
)


@compiled
def _spread_bias(
    target: tl.tensor,
    x: tl.tensor,
    tokens: tl.tensor,
    parts: tl.tensor,
    slots: tl.tensor,
    jobs: tl.tensor,
    launch: tl.tensor,
    VALUES: tl.constexpr,
    TOKENS: tl.constexpr,
    PANEL_ROWS: tl.constexpr,
) -> None:
    """Every pair of a job gets the bias: (job, panel of rows) is one program's."""
    first, past, panels = items(launch)
    for item in range(first + tl.program_id(0), past, tl.num_programs(0)):
        part, slot, start = job(parts, slots, jobs, item // panels)
        pairs = start + tl.arange(0, TOKENS)
        rows = item % panels * PANEL_ROWS + tl.arange(0, PANEL_ROWS)
        is_row = rows < read(part, ROWS)
        bias = tl.load(array(part, FIRST, VALUES) + rows, is_row, 0.0).to(tl.float32)
        made = tl.zeros([TOKENS, PANEL_ROWS], tl.float32) + bias[None, :]
        is_own = pairs < read(slot, COUNT)
        store_rows(part, slot, target, pairs, rows, is_own[:, None] & is_row[None, :], made)


@compiled
def _add_products(
    y: tl.tensor,
    base: tl.tensor,
    products: tl.tensor,
    starts: tl.tensor,
    sums: tl.tensor,
    parts: tl.tensor,
    coefficients: tl.tensor,
    width: tl.tensor,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`y[t]` = `base[t]` and `coefficients[pair] * products[product]` of the token's `sums`.

    Those are `sums[starts[t]:starts[t + 1]]`. What was not made (the slot has no part in this
    layer) or counts for nothing (a router left the adapter out) is not read.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < width
    at = token * width + columns
    total = tl.load(base + at, is_column, 0.0)
    for place in range(tl.load(starts + token), tl.load(starts + token + 1)):
        own = sums + place * SUM_NUMBERS
        share = tl.load(coefficients + tl.load(own + 1))
        rows = read(parts + tl.load(own + 2) * PART_NUMBERS, ROWS)
        made = tl.where(share != 0.0, rows, 0)
        at_product = products + tl.load(own) * width + columns
        total += share * tl.load(at_product, columns < made, 0.0)
    tl.store(y + at, rounded(total, y.dtype.element_ty, INTERPRETED), is_column)


SPREAD_BIAS = Kernel(
    _spread_bias,
    SIGNATURE,
    (Configuration({"TOKENS": 8, "PANEL_ROWS": 256}, num_warps=4),),
)
ADD_PRODUCTS = Kernel(
    _add_products,
    {
        "y": "*x",
        "base": "*fp32",
        "products": "*fp32",
        "starts": "*i64",
        "sums": "*i64",
        "parts": "*i64",
        "coefficients": "*fp32",
        "width": "i32",
    },
    (Configuration({"BLOCK": 1024}, num_warps=4),),
)
