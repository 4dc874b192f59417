"""Rows sorted into slices: every run has a place of its own, where its row's lane or tail is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the layout is that of a GPU's kernels")

from server.kernels.gpu.slices import LANES, NO_ROW, WINDOW_ROWS, Slices

LENGTHS = st.lists(st.one_of(st.integers(0, 9), st.integers(0, 400)), min_size=1, max_size=90)


def row_of_each_place(slices: Slices) -> np.ndarray:
    """As a kernel finds it: by bounds, tails and rows; -1 where no row is."""
    found = np.full(slices.num_steps * LANES, -1).reshape(-1, LANES)
    bounds, places = slices.bounds, slices.rows.reshape(-1, LANES).astype(np.int64)
    for at, (first, past, first_tail) in enumerate(bounds[:-1]):
        window = at * LANES // WINDOW_ROWS * WINDOW_ROWS
        rows = np.where(places[at] == NO_ROW, -1, window + places[at])
        found[first:past] = rows
        for lane, begin, end in slices.tails[first_tail : bounds[at + 1, 2]]:
            found[begin:end] = rows[lane]
    return found.ravel()


@given(counts=LENGTHS, before=st.sampled_from([0, 31, 500]))
def test_every_run_lies_where_its_row_is_read(counts: list[int], before: int) -> None:
    lengths = np.array([1] * before + counts)
    slices, rows = Slices(lengths), np.repeat(np.arange(len(lengths)), lengths)
    places = slices.places(rows)
    assert len(np.unique(places)) == len(places)
    assert (row_of_each_place(slices)[places] == rows).all()


@given(counts=LENGTHS)
def test_runs_of_a_row_lie_in_the_order_in_which_they_are_read(counts: list[int]) -> None:
    lengths = np.array(counts)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    places = Slices(lengths).places(rows)
    of_same_row = rows[1:] == rows[:-1]
    assert (places[1:] > places[:-1])[of_same_row].all()


@given(counts=LENGTHS, before=st.sampled_from([0, 31, 500]))
def test_every_row_has_one_lane(counts: list[int], before: int) -> None:
    slices = Slices(np.array([1] * before + counts))
    windows = np.arange(len(slices.rows)) // WINDOW_ROWS * WINDOW_ROWS
    rows = (windows + slices.rows)[slices.rows != NO_ROW]
    assert sorted(rows) == list(range(before + len(counts)))


@given(counts=LENGTHS)
def test_bytes_are_those_of_the_arrays(counts: list[int]) -> None:
    slices = Slices(np.array(counts))
    arrays = (slices.bounds, slices.tails, slices.rows)
    assert slices.num_bytes == sum(array.nbytes for array in arrays)


def test_a_long_row_does_not_hold_up_its_slice() -> None:
    lengths = np.full(WINDOW_ROWS, 31)
    lengths[100] = 3000
    slices = Slices(lengths)
    assert slices.num_steps <= 31 * WINDOW_ROWS // LANES + 3000 // LANES + 1
    assert len(slices.tails) == 1


def test_padding_of_random_rows_is_small() -> None:
    lengths = np.random.default_rng(1).binomial(3072, 0.01, 9216)
    assert Slices(lengths).num_steps * LANES <= 1.04 * lengths.sum()
