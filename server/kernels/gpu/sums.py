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
    LAUNCH_NUMBERS,
    ROWS,
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
    table: tl.tensor,
    jobs: tl.tensor,
    launches: tl.tensor,
    launch: tl.tensor,
    VALUES: tl.constexpr,
    TOKENS: tl.constexpr,
    PANEL_ROWS: tl.constexpr,
) -> None:
    """Every pair of a job gets the bias: (job, panel of rows) is one program's."""
    first, past, panels = items(launches + launch * LAUNCH_NUMBERS)
    for item in range(first + tl.program_id(0), past, tl.num_programs(0)):
        own, start = job(table, jobs, item // panels)
        pairs = start + tl.arange(0, TOKENS)
        rows = item % panels * PANEL_ROWS + tl.arange(0, PANEL_ROWS)
        is_row = rows < read(own, ROWS)
        bias = tl.load(array(own, FIRST, VALUES) + rows, is_row, 0.0).to(tl.float32)
        made = tl.zeros([TOKENS, PANEL_ROWS], tl.float32) + bias[None, :]
        is_own = pairs < read(own, COUNT)
        store_rows(own, target, pairs, rows, is_own[:, None] & is_row[None, :], made)


@compiled
def _add_products(
    y: tl.tensor,
    base: tl.tensor,
    products: tl.tensor,
    starts: tl.tensor,
    order: tl.tensor,
    pairs: tl.tensor,
    coefficients: tl.tensor,
    width: tl.tensor,
    INTERPRETED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`y[t]` = `base[t]` and `coefficients[pairs[p]] * products[p]` for the p of token t.

    Those are `order[starts[t]:starts[t + 1]]`.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < width
    at = token * width + columns
    total = tl.load(base + at, is_column, 0.0)
    for place in range(tl.load(starts + token), tl.load(starts + token + 1)):
        product = tl.load(order + place)
        share = tl.load(coefficients + tl.load(pairs + product))
        total += share * tl.load(products + product * width + columns, is_column, 0.0)
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
        "order": "*i64",
        "pairs": "*i64",
        "coefficients": "*fp32",
        "width": "i32",
    },
    (Configuration({"BLOCK": 1024}, num_warps=4),),
)
