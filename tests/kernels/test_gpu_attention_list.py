"""What a step's attention is to a GPU's kernels: each visible pair once, each piece merged once."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the list is that of a GPU's kernels")

from server.kernels.gpu import attention_list
from server.kernels.gpu.attention_list import (
    KEYS,
    NARROW_ROWS,
    NUM_COLUMNS,
    WIDE_ROWS,
    has_wide_tiles,
    list_attention,
    most_numbers,
    most_pieces,
)

SEQUENCE, TOKEN, POSITION, ROW, PAST_ROW, KEY, PAST_KEY, PIECE, SPLITS = range(NUM_COLUMNS.value)
Numbers = np.ndarray
LENGTHS = st.one_of(
    st.integers(1, 90).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.tuples(st.integers(600, 5000), st.integers(0, 70)),
)
SEQUENCES = st.lists(LENGTHS, max_size=6)
WINDOWS = st.none() | st.integers(1, 1200)


def parts(listed: Numbers) -> list[Numbers]:
    """Narrow tiles, wide tiles and merges, as kernels find them."""
    bounds = listed[0, :4]
    return [listed[first:past] for first, past in pairwise(bounds)]


def listed_for(sequences: list[tuple[int, int]], group: int, window: int | None) -> Numbers:
    """For sequences of (context, tokens in the step)."""
    offsets = [0, *accumulate(new for _, new in sequences)]
    return list_attention(offsets, [length for length, _ in sequences], group, window)


@contextmanager
def sized(least_keys: int, split_tokens: int) -> Iterator[None]:
    """With other limits of splits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_list, "LEAST_KEYS", least_keys)
        patch.setattr(attention_list, "SPLIT_TOKENS", split_tokens)
        yield


@given(
    sequences=SEQUENCES,
    group=st.sampled_from([1, 3, 4, 8, 40]),
    window=WINDOWS,
    sizes=st.sampled_from([(256, 256), (32, 256), (32, 9)]),
)
def test_every_row_sees_every_visible_key_once(
    sequences: list[tuple[int, int]], group: int, window: int | None, sizes: tuple[int, int]
) -> None:
    with sized(*sizes):
        listed = listed_for(sequences, group, window)
    narrow, wide, _ = parts(listed)
    offsets = np.cumsum([0, *(new for _, new in sequences)])
    for at, (length, new) in enumerate(sequences):
        seen = np.zeros((new * group, length), np.int64)
        positions = length - new + np.arange(new * group) // group
        ago = positions[:, None] - np.arange(length)
        is_visible = (ago >= 0) & (ago < (window or length))
        for rows, tiles in ((NARROW_ROWS, narrow), (WIDE_ROWS, wide)):
            for tile in tiles[tiles[:, SEQUENCE] == at]:
                assert (tile[TOKEN], tile[POSITION]) == (offsets[at], length - new)
                assert 0 < tile[PAST_ROW] - tile[ROW] <= rows
                own = slice(tile[ROW], tile[PAST_ROW]), slice(tile[KEY], tile[PAST_KEY])
                seen[own] += is_visible[own]
                assert is_visible[own].any(0).all()  # nothing is read that no row sees
        assert (seen == is_visible).all()


@given(
    sequences=SEQUENCES,
    group=st.sampled_from([1, 3, 8, 40]),
    window=WINDOWS,
    sizes=st.sampled_from([(256, 256), (32, 256), (32, 9)]),
)
def test_every_piece_is_written_once_and_merged_once(
    sequences: list[tuple[int, int]], group: int, window: int | None, sizes: tuple[int, int]
) -> None:
    num_tokens = sum(new for _, new in sequences)
    with sized(*sizes):
        listed = listed_for(sequences, group, window)
        most = most_pieces(num_tokens)
        assert listed.size <= most_numbers(num_tokens, group)
    narrow, wide, merges = parts(listed)
    written: list[tuple[int, int, int]] = []  # step's token, piece, row of the token
    for tile in (*narrow, *wide):
        rows = np.arange(tile[ROW], tile[PAST_ROW]) if tile[PIECE] >= 0 else np.arange(0)
        tokens = rows // group
        pieces = tile[PIECE] + tokens * tile[SPLITS]
        written += zip(tile[TOKEN] + tokens, pieces, rows % group, strict=True)
    merged = [
        (merge[TOKEN], merge[PIECE] + split, row)
        for merge in merges
        for split in range(merge[SPLITS])
        for row in range(group)
    ]
    assert sorted(written) == sorted(merged)
    assert len({(piece, row) for _, piece, row in written}) == len(written)
    assert all(0 <= piece < most for _, piece, _ in written)


def test_zeros_and_a_step_without_sequences_are_no_work() -> None:
    for listed in (list_attention([0], [], 3, None), np.zeros((1, NUM_COLUMNS.value), np.int64)):
        assert [len(part) for part in parts(listed)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("sequence", "group", "window", "splits"),
    [
        ((256, 1), 1, None, 1),
        ((257, 1), 1, None, 2),
        ((2049, 1), 8, None, 9),
        ((4100, 1), 1, None, 15),  # a 16th would be empty: splits are whole blocks of keys
        ((9000, 1), 1, None, 16),
        ((9000, 1), 1, 200, 1),
        ((9000, 1), 1, 480, 2),
        ((9000, 16), 1, None, 16),
        ((9000, 64), 1, None, 4),
        ((9000, 300), 1, None, 1),
        ((9000, 2), 40, None, 3),  # 80 rows
    ],
)
def test_context_is_split_where_few_rows_see_much(
    sequence: tuple[int, int], group: int, window: int | None, splits: int
) -> None:
    narrow, wide, _ = parts(listed_for([sequence], group, window))
    tiles = np.concatenate([narrow, wide])
    assert set(tiles[:, SPLITS]) == {splits}
    assert len(set(tiles[:, KEY])) == splits
    assert (np.unique(tiles[:, KEY])[1:] % KEYS == 0).all()  # no block of keys is in two splits


@pytest.mark.parametrize("group", [1, 3, 16])
@pytest.mark.parametrize("num_tokens", [1, 7, 256])
def test_tokens_that_are_all_split_most_fit_a_list(num_tokens: int, group: int) -> None:
    listed = listed_for([(9000, 1)] * num_tokens, group, None)
    assert listed.size <= most_numbers(num_tokens, group)


@pytest.mark.parametrize("mates", [0, 3, 40])
def test_splits_of_a_sequence_are_its_own(mates: int) -> None:
    alone, own = ((6000, 3), (700, 1)), [SPLITS, POSITION, ROW, PAST_ROW, KEY, PAST_KEY]
    expected = parts(listed_for([*alone], 3, None))[0]
    others = [(40, 1)] * mates
    narrow, _, _ = parts(listed_for([*others, *alone, *others], 3, None))
    found = narrow[(narrow[:, SEQUENCE] == mates) | (narrow[:, SEQUENCE] == mates + 1)]
    assert (found[:, own] == expected[:, own]).all()


@pytest.mark.parametrize(
    ("offsets", "group", "expected"),
    [([0], 1, False), ([0, 16], 1, False), ([0, 1, 18], 1, True), ([0, 1], 17, True)],
)
def test_wide_tiles_are_told_by_offsets_alone(
    offsets: list[int], group: int, expected: bool
) -> None:
    lengths = [100] * (len(offsets) - 1)
    _, wide, _ = parts(list_attention(offsets, lengths, group, None))
    assert has_wide_tiles(offsets, group) == expected == (len(wide) > 0)
