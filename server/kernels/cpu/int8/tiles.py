"""Products of a few quantized rows with one tile of a quantized weight, in registers.

What is added up for a number of the result is its own row's and column's, group after group, as
`grouped.product` has it: how many rows are multiplied at a time changes no bit.
"""

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from server.kernels.cpu.compiled import as_written
from server.kernels.cpu.int8.bytes import BYTE, DEPTH, WORDS, add_dots
from server.kernels.cpu.int8.grouped import GROUP
from server.kernels.cpu.int8.layout import GROUP_BYTES
from server.kernels.cpu.pointers import LINE
from server.kernels.cpu.vectors import (
    FLOAT,
    INDEX,
    LANES,
    VECTOR,
    WIDTH,
    bring,
    broadcast,
    load,
    start_of,
    store,
)

HALVES = range(0, WIDTH, LANES)  # where the vectors of a tile's rows begin
MOST_ROWS = 6
AHEAD = 12  # rows: while more are multiplied with a tile, a thread's next one is brought near,
AHEAD_PARTS = 2  # in so many parts, each with as many rows as are multiplied at a time


@dataclass(frozen=True, slots=True)
class _Operands:
    """Addresses while code is made for them. `first_groups` are places among all rows' groups."""

    context: Any
    builder: Any
    sums: Any
    numbers: Any
    starts: Any
    scales: Any
    first_groups: list[Any]
    tile: Any
    ahead: Any


def _tile(rows: int, lines: int = 0) -> Any:
    """`tile(sums, numbers, starts, scales, first, weight, groups, ahead)`, as `multiply_rows` has
    them. `lines` lines of memory for each group are brought near from the address `ahead` on.
    """

    def tile(
        typing: Any,
        sums: Any,
        numbers: Any,
        starts: Any,
        scales: Any,
        first: Any,
        weight: Any,
        groups: Any,
        ahead: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            *arrays, first, weight, groups, ahead = values

            def place(array: int) -> Any:
                kind = signature.args[array]
                return start_of(context, builder, kind, arrays[array], _number(0))

            numbers = (builder.add(first, _number(row)) for row in range(rows))
            operands = _Operands(
                context,
                builder,
                sums=place(0),
                numbers=place(1),
                starts=place(2),
                scales=place(3),
                first_groups=[builder.mul(number, groups) for number in numbers],
                tile=builder.inttoptr(weight, BYTE.as_pointer()),
                ahead=builder.inttoptr(ahead, BYTE.as_pointer()),
            )
            _along_groups(operands, rows, groups, lines)
            return context.get_dummy_value()

        i = types.int64
        return types.void(sums, numbers, starts, scales, i, i, i, i), generate

    return intrinsic(tile)


def _along_groups(own: _Operands, rows: int, groups: Any, lines: int) -> None:
    """The sums stay in registers while a loop goes along the groups of the columns."""
    builder = own.builder
    places = [_number(row * WIDTH + half) for row in range(rows) for half in HALVES]
    initial = [load(builder, own.sums, place) for place in places]
    entry = builder.block
    loop, after = (builder.append_basic_block(name) for name in ("group", "multiplied"))
    builder.branch(loop)
    builder.position_at_end(loop)
    group, sums = builder.phi(INDEX), [builder.phi(VECTOR) for _ in places]
    for line in range(lines):
        place = builder.add(builder.mul(group, _number(lines * LINE)), _number(line * LINE))
        bring(builder, builder.gep(own.ahead, [place]))
    products = _group_products(own, group)
    results = [builder.fadd(sum_, one) for sum_, one in zip(sums, products, strict=True)]
    following = builder.add(group, _number(1))
    builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)
    first, later = [_number(0), *initial], [following, *results]
    for phi, *incoming in zip([group, *sums], first, later, strict=True):
        phi.add_incoming(incoming[0], entry)
        phi.add_incoming(incoming[1], loop)
    builder.position_at_end(after)
    for place, result in zip(places, results, strict=True):
        store(builder, result, own.sums, place)


def _group_products(own: _Operands, group: Any) -> list[Any]:
    """By row, then half of the tile, what one group of the columns gives."""
    builder = own.builder
    places = [builder.add(first, group) for first in own.first_groups]
    tile = builder.gep(own.tile, [builder.mul(group, _number(GROUP_BYTES))])
    totals = _whole_sums(own, places, tile)
    tile_scales = _cast(builder, builder.gep(tile, [_number(WIDTH * GROUP)]), FLOAT)
    scales = [load(builder, tile_scales, _number(half)) for half in HALVES]
    products = []
    for place, own_totals in zip(places, totals, strict=True):
        row_scale = broadcast(builder, builder.load(builder.gep(own.scales, [place])))
        for scale, total in zip(scales, own_totals, strict=True):
            factor = builder.fmul(row_scale, scale)
            products.append(builder.fmul(builder.sitofp(total, VECTOR), factor))
    return products


def _whole_sums(own: _Operands, places: list[Any], tile: Any) -> list[list[Any]]:
    """By row and half, what the numbers of one group add up to, in whole numbers."""
    builder = own.builder
    initial = (_broadcast_word(builder, own.starts, place) for place in places)
    sums = [[word] * len(HALVES) for word in initial]
    words = [builder.mul(place, _number(GROUP // DEPTH)) for place in places]
    for step in range(GROUP // DEPTH):
        weights = [_load_words(builder, tile, (step * WIDTH + half) * DEPTH) for half in HALVES]
        for row, word in enumerate(words):
            at = builder.add(word, _number(step))
            bytes_ = _broadcast_word(builder, own.numbers, at)
            sums[row] = [
                add_dots(own.context, builder, sum_, weight, bytes_)
                for sum_, weight in zip(sums[row], weights, strict=True)
            ]
    return sums


def _broadcast_word(builder: Any, start: Any, at: Any) -> Any:
    """A vector of nothing but the word `at` words after `start`."""
    single = builder.load(builder.gep(_cast(builder, start, FLOAT), [at]))
    return builder.bitcast(broadcast(builder, single), WORDS)


def _load_words(builder: Any, start: Any, at: int) -> Any:
    place = _cast(builder, builder.gep(start, [_number(at)]), WORDS)
    return builder.load(place, align=DEPTH)


def _cast(builder: Any, address: Any, kind: Any) -> Any:
    return builder.bitcast(address, kind.as_pointer())


def _number(number: int) -> Any:
    return ir.Constant(INDEX, number)


_tile_of_6, _tile_of_4, _tile_of_2, _tile_of_1 = map(_tile, (MOST_ROWS, 4, 2, 1))
_tile_of_6_ahead = _tile(MOST_ROWS, GROUP_BYTES // LINE // AHEAD_PARTS)


@as_written
def multiply_rows(
    sums: Any,
    numbers: Any,
    starts: Any,
    scales: Any,
    first: int,
    past: int,
    tile: int,
    groups: int,
    following: int,
) -> int:
    """Add the products of a tile and up to MOST_ROWS rows from `first` on; how many there were.

    Flat arrays: `sums [MOST_ROWS, WIDTH]`, `numbers [past, groups, GROUP]`, `scales [past,
    groups]`, and `starts [past, groups]`, at which the sum of a group begins. `tile` is an address,
    and `following` that of the next one, which is brought near where rows are many.
    """
    left = past - first
    if past > AHEAD and first < AHEAD_PARTS * MOST_ROWS:
        ahead = following + first // MOST_ROWS * (groups * GROUP_BYTES // AHEAD_PARTS)
        _tile_of_6_ahead(sums, numbers, starts, scales, first, tile, groups, ahead)
        return MOST_ROWS
    if left >= MOST_ROWS:
        _tile_of_6(sums, numbers, starts, scales, first, tile, groups, tile)
        return MOST_ROWS
    if left >= 4:
        _tile_of_4(sums, numbers, starts, scales, first, tile, groups, tile)
        return 4
    if left >= 2:
        _tile_of_2(sums, numbers, starts, scales, first, tile, groups, tile)
        return 2
    _tile_of_1(sums, numbers, starts, scales, first, tile, groups, tile)
    return 1
