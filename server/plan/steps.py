"""What steps on a GPU are made of, in numbers that the engine, its kernels and a plan go by.

Knows neither models nor devices.
"""

LOGIT_ROWS_AT_ONCE = 64  # bounds the memory of logits: rows * vocabulary * 4 bytes
PRODUCTS_OF_ROW = 8  # most operands by which one row's layer is changed, on average
MOST_PRODUCTS = 1 << 24  # fp32 numbers of deltas' products at once, of steps not recorded: 64 MiB


def buckets(max_rows: int) -> tuple[int, ...]:
    """Numbers of rows that steps are recorded for, ascending."""
    return (*(1 << n for n in range(max_rows.bit_length()) if 1 << n < max_rows), max_rows)


def spare_pages(max_rows: int, page_size: int) -> int:
    """Pages beside the cache's own, so that each row of padding has a slot to itself."""
    return -(-max_rows // page_size)
