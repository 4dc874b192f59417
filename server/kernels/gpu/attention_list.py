"""Which work a step's attention is: numbers that kernels read from device memory.

Rows are (token, query head) pairs that share a key head, by token. A *tile* is up to 16 (narrow) or
64 (wide) rows of one sequence. A long context that few rows look at is *split*: other programs see
other parts of it, and what they made, the *pieces*, is merged. How a sequence is tiled and split
depends on that sequence alone, unless a step asks for more pieces than its scratch has.

The list is rows of NUM_COLUMNS numbers: a header, narrow tiles, wide tiles, merges. The header has
the first row of each and the past row of all, so that of a longer buffer the rest is not read, and
zeros are an empty list. Pure bookkeeping on the host: heads of keys, addresses and pages are not
known here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import triton.language as tl
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

KEYS = 32  # that a tile sees at a time
NARROW_ROWS, WIDE_ROWS = 16, 64
MOST_SPLITS = 16
LEAST_KEYS = 256  # of a split, but the last: what a piece costs is then little beside what it saves
SPLIT_TOKENS = 256  # more tokens that are all split have work enough for any GPU without

# Of a tile.
SEQUENCE = tl.constexpr(0)  # row of the block table
TOKEN = tl.constexpr(1)  # of the step: the sequence's first, or a merge's own
POSITION = tl.constexpr(2)  # of the sequence's first token
ROW = tl.constexpr(3)  # of the sequence: the tile's first
PAST_ROW = tl.constexpr(4)
KEY = tl.constexpr(5)  # position of the first key that the tile sees here
PAST_KEY = tl.constexpr(6)
PIECE = tl.constexpr(7)  # of the sequence's first token, or a merge's first; below 0: not split
SPLITS = tl.constexpr(8)  # also the pieces from a token's to the next one's
NUM_COLUMNS = tl.constexpr(9)


class _Sequences(NamedTuple):
    """Arrays with a number for each sequence."""

    tokens: Numbers  # the first one's row of the step
    counts: Numbers  # of tokens
    positions: Numbers  # of the first token
    rows: Numbers  # how many
    keys: Numbers  # the first that is seen, or before it: a multiple of KEYS
    splits: Numbers
    reach: Numbers  # keys of a split
    pieces: Numbers  # the first

    @property
    def tile_rows(self) -> Numbers:
        return np.where(self.rows <= NARROW_ROWS, NARROW_ROWS, WIDE_ROWS)

    @property
    def tiles(self) -> Numbers:
        return -(-self.rows // self.tile_rows)


def most_pieces(num_tokens: int) -> int:
    """Pieces that the scratch of a step of `num_tokens` tokens has."""
    return MOST_SPLITS * min(num_tokens, SPLIT_TOKENS)


def most_numbers(num_tokens: int, group: int) -> int:
    """Numbers of a list for `num_tokens` tokens, each `group` rows, at most."""
    tiles_of_token = -(-group // NARROW_ROWS)
    tiles = tiles_of_token * (num_tokens + most_pieces(num_tokens))
    return (1 + tiles + num_tokens) * int(NUM_COLUMNS.value)


def has_wide_tiles(query_offsets: Sequence[int], group: int) -> bool:
    """Whether a list of these sequences has any."""
    return int(np.diff(query_offsets).max(initial=0)) * group > NARROW_ROWS


def list_attention(
    query_offsets: Sequence[int], context_lengths: Sequence[int], group: int, window: int | None
) -> Numbers:
    """The list `[rows, NUM_COLUMNS]` of an `AttentionBatch`'s sequences.

    `group` is query heads of a key head, `window` how many keys a token sees at most.
    """
    offsets, lengths = np.asarray(query_offsets, np.int64), np.asarray(context_lengths, np.int64)
    own = _sequences(offsets, lengths, group, window)
    tiles, is_wide = _tiles(own, group, window)
    parts = [tiles[~is_wide], tiles[is_wide], _merges(own)]
    header = np.zeros((1, NUM_COLUMNS.value), np.int64)
    header[0, : len(parts) + 1] = np.cumsum([1, *map(len, parts)])
    return np.concatenate([header, *parts])


def _sequences(offsets: Numbers, lengths: Numbers, group: int, window: int | None) -> _Sequences:
    counts = np.diff(offsets)
    positions = lengths - counts
    keys = _oldest(positions, window) // KEYS * KEYS
    seen = lengths - keys
    narrow_tiles = np.maximum(-(-counts * group // NARROW_ROWS), 1)
    splits = np.minimum(-(-seen // LEAST_KEYS), MOST_SPLITS // narrow_tiles)
    splits = np.maximum(splits, 1)
    room = most_pieces(int(counts.sum()))
    splits[np.cumsum(np.where(splits > 1, counts * splits, 0)) > room] = 1
    reach = -(-seen // (splits * KEYS)) * KEYS
    splits = np.maximum(-(-seen // np.maximum(reach, 1)), 1)
    pieces = np.where(splits > 1, counts * splits, 0)
    first_pieces = np.where(splits > 1, pieces.cumsum() - pieces, -1)
    rows = counts * group
    return _Sequences(offsets[:-1], counts, positions, rows, keys, splits, reach, first_pieces)


def _tiles(own: _Sequences, group: int, window: int | None) -> tuple[Numbers, NDArray[np.bool_]]:
    """A row for each tile's each split, by sequence; whether each is wide."""
    of, number = _numbered(own.tiles * own.splits)
    tile, split = np.divmod(number, own.splits[of])
    row = tile * own.tile_rows[of]
    past_row = np.minimum(row + own.tile_rows[of], own.rows[of])
    position = own.positions[of]
    first_key = own.keys[of] + split * own.reach[of]
    columns = {
        SEQUENCE: of,
        TOKEN: own.tokens[of],
        POSITION: position,
        ROW: row,
        PAST_ROW: past_row,
        KEY: np.maximum(first_key, _oldest(position + row // group, window)),
        PAST_KEY: np.minimum(first_key + own.reach[of], position + (past_row - 1) // group + 1),
        PIECE: np.where(own.splits[of] > 1, own.pieces[of] + split, -1),
        SPLITS: own.splits[of],
    }
    return _table(columns, len(of)), own.tile_rows[of] == WIDE_ROWS


def _merges(own: _Sequences) -> Numbers:
    """A row for each token whose context is split."""
    of, number = _numbered(np.where(own.splits > 1, own.counts, 0))
    splits = own.splits[of]
    token, piece = own.tokens[of] + number, own.pieces[of] + number * splits
    return _table({TOKEN: token, PIECE: piece, SPLITS: splits}, len(of))


def _oldest(positions: Numbers, window: int | None) -> Numbers:
    """The first position that tokens at `positions` see."""
    return np.zeros_like(positions) if window is None else np.maximum(positions - window + 1, 0)


def _numbered(counts: Numbers) -> tuple[Numbers, Numbers]:
    """Each place as often as it has `counts`, and the number of each time."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) - (counts.cumsum() - counts)[of]


def _table(columns: dict[tl.constexpr, Numbers], num_rows: int) -> Numbers:
    table = np.zeros((num_rows, NUM_COLUMNS.value), np.int64)
    for column, numbers in columns.items():
        table[:, column.value] = numbers
    return table
