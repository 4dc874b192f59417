"""All decoder layers of a step in one call: the loops that single operations call, one by one."""

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from server.kernels.cpu.attention import attend
from server.kernels.cpu.compiled import compiled
from server.kernels.cpu.deltas import add_deltas
from server.kernels.cpu.glue import rms_norm, rotate_and_cache, silu_gate
from server.kernels.cpu.int8.products import multiply as multiply_bytes
from server.kernels.cpu.pointers import pointer
from server.kernels.cpu.streams import multiply as multiply_stream
from server.kernels.cpu.threads import run_tasks

# Columns of the table of layers: addresses.
INPUT_NORM, QKV, OUT, POST_NORM, GATE_UP, DOWN, KEYS, VALUES = range(8)
PRODUCTS = 4  # of a layer
IN_BYTES = -1  # instead of the depth of a product: the weight is one of bytes
SERIAL_NUMBERS = 8192  # of fewer, no second thread is worth waking


class Shape(NamedTuple):
    """Of every layer."""

    hidden: int
    heads: int
    kv_heads: int
    size: int  # of a head
    inner: int  # between the products of an MLP
    pages: int
    page_size: int
    window: int  # 0 for none
    eps: Any
    scale: Any


class Product(NamedTuple):
    """How one of a layer's four products is computed."""

    depth: int  # as `streams.multiply` wants it, or IN_BYTES
    window: int  # rows of an adapter's window


class Deltas(NamedTuple):
    """All products' deltas: `add_deltas` of the rows `starts[i]:starts[i + 1]` of `table`."""

    table: Any  # [n, NUM_COLUMNS]
    starts: Any  # [4 * layers + 1]
    offsets: Any
    tokens: Any
    coefficients: Any


class Places(NamedTuple):
    """Where the tokens of a step are."""

    cos: Any
    sin: Any
    slots: Any
    tables: Any
    offsets: Any
    lengths: Any


@compiled
def run_layers(
    layers: Any, shape: Any, products: Any, hidden: Any, places: Any, deltas: Any, threads: int
) -> None:
    """Put `hidden [T, n]` through `layers [count, 8]`, in place."""
    rows, heads = len(hidden), shape.heads + 2 * shape.kv_heads
    normed, change = np.empty_like(hidden), np.empty_like(hidden)
    qkv = np.empty((rows, heads * shape.size), np.float32)
    query = np.empty((rows, shape.heads, shape.size), np.float32)
    mixed = np.empty_like(query)
    gate_up = np.empty((rows, 2 * shape.inner), np.float32)
    gated = np.empty((rows, shape.inner), np.float32)
    seen, own_threads = mixed.reshape(rows, shape.heads * shape.size), _enough(hidden, threads)
    for at in range(len(layers)):
        own, first = layers[at], at * PRODUCTS
        keys, values = _cache(own, shape)
        _norm(hidden, own[INPUT_NORM], shape, own_threads, normed)
        _multiply(normed, own[QKV], products[0], deltas, first, threads, qkv)
        rotate_and_cache(
            qkv.reshape(rows, heads, shape.size),
            places.cos,
            places.sin,
            places.slots,
            keys,
            values,
            _enough(qkv, threads),
            query,
        )
        attend(
            query,
            keys,
            values,
            places.tables,
            places.offsets,
            places.lengths,
            shape.scale,
            shape.window,
            threads,
            mixed,
        )
        _multiply(seen, own[OUT], products[1], deltas, first + 1, threads, change)
        run_tasks(_add_row, rows, own_threads, (hidden, change))
        _norm(hidden, own[POST_NORM], shape, own_threads, normed)
        _multiply(normed, own[GATE_UP], products[2], deltas, first + 2, threads, gate_up)
        silu_gate(gate_up, _enough(gated, threads), gated)
        _multiply(gated, own[DOWN], products[3], deltas, first + 3, threads, change)
        run_tasks(_add_row, rows, own_threads, (hidden, change))


@compiled
def _enough(numbers: Any, threads: int) -> int:
    return threads if numbers.size > SERIAL_NUMBERS else 1


@compiled
def _cache(own: Any, shape: Any) -> Any:
    """A layer's keys and values, as they lie."""
    pages, heads, size, length = shape.pages, shape.kv_heads, shape.size, shape.page_size
    keys = carray(pointer(own[KEYS]), (pages, heads, size, length), np.float32)
    return keys, carray(pointer(own[VALUES]), (pages, heads, length, size), np.float32)


@compiled
def _norm(x: Any, weight: int, shape: Any, threads: int, output: Any) -> None:
    numbers = carray(pointer(weight), (shape.hidden,), np.float32)
    rms_norm(x, numbers, shape.eps, threads, output)


@compiled
def _multiply(
    x: Any, weight: int, how: Any, deltas: Any, number: int, threads: int, y: Any
) -> None:
    """`y = x W.T`, and the deltas of product `number`."""
    if how.depth == IN_BYTES:
        multiply_bytes(x, weight, threads, y)
    else:
        multiply_stream(weight, how.depth, x, y, threads)
    first, past = deltas.starts[number], deltas.starts[number + 1]
    if first < past:
        add_deltas(
            y,
            x,
            deltas.table[first:past],
            deltas.offsets,
            deltas.tokens,
            deltas.coefficients,
            how.window,
            threads,
        )


@compiled
def _add_row(row: int, sums: Any, numbers: Any) -> None:
    for i in range(sums.shape[1]):
        sums[row, i] += numbers[row, i]
