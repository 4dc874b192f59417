"""From scores to places: exact counts, ties to the lowest index, and the definitions by loops."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.training.errors import InvalidRule, NothingSelected, ScoreNotFinite
from adapters_store.training.selection import (
    drop_fraction,
    grow_and_drop,
    layer_drop,
    num_tiles,
    ranks,
    tile_scores,
    top,
    top_global,
    top_per_row,
)

# Few different values, so that most draws have ties; both zeros are one value.
SCORE_VALUES = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 3.0, float("inf"), -float("inf")])


@st.composite
def scores(draw: st.DrawFn, rows: int | None = None) -> Tensor:
    shape = rows or draw(st.integers(1, 5)), draw(st.integers(1, 6))
    size = shape[0] * shape[1]
    values = draw(st.lists(SCORE_VALUES, min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float64).view(shape)


def best(score: Tensor, count: int) -> list[int]:
    values = score.flatten().tolist()
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


@given(scores(), st.integers(0, 30))
def test_top_keeps_exactly_count_and_ties_go_to_the_lowest_index(score: Tensor, count: int) -> None:
    count = min(count, score.numel())
    kept = top(score, count)
    assert kept.dtype == torch.int64
    assert kept.tolist() == best(score, count)


@given(scores(), st.integers(1, 6))
def test_row_balanced_keeps_the_best_of_every_row(score: Tensor, per_row: int) -> None:
    rows, columns = score.shape
    per_row = min(per_row, columns)
    kept = top_per_row(score, per_row * rows + rows - 1)  # what does not fill a row is left
    expected = [i * columns + place for i in range(rows) for place in best(score[i], per_row)]
    assert kept.tolist() == expected


def test_grow_and_drop_by_rows_keeps_rows_balanced() -> None:
    size = torch.tensor([[1.0, 2.0, 0.0, 0.0], [9.0, 8.0, 0.0, 0.0]])
    gradient = torch.tensor([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 9.0, 8.0]])
    kept = torch.tensor([0, 1, 4, 5])
    assert grow_and_drop(kept, size, gradient, 0.5, top_per_row).tolist() == [1, 3, 4, 6]
    assert grow_and_drop(kept, size, gradient, 0.5).tolist() == [4, 5, 6, 7]
    assert grow_and_drop(kept, size, gradient, 0.49, top_per_row).tolist() == kept.tolist()


@given(st.lists(scores(), min_size=1, max_size=4), st.integers(0, 40))
def test_global_selection_is_that_of_one_long_score(layers: list[Tensor], count: int) -> None:
    together = torch.cat([layer.flatten() for layer in layers])
    count = min(count, together.numel())
    found, first = [], 0
    for layer, kept in zip(layers, top_global(layers, count), strict=True):
        found += (kept + first).tolist()
        first += layer.numel()
    assert found == best(together, count)


@given(st.lists(scores(rows=4), min_size=1, max_size=4), st.sampled_from([0.25, 0.5, 1.0]))
def test_layer_drop_keeps_layers_with_a_fair_share_and_their_own_best(
    layers: list[Tensor], keep_ratio: float
) -> None:
    counts = [int(layer.numel() * keep_ratio) for layer in layers]  # exact: rows are 4
    together = sorted((x for layer in layers for x in layer.flatten().tolist()), reverse=True)
    threshold = together[sum(counts) - 1]
    for layer, count, kept in zip(layers, counts, layer_drop(layers, counts), strict=True):
        fraction = sum(x >= threshold for x in layer.flatten().tolist()) / layer.numel()
        assert kept.tolist() == (best(layer, count) if fraction >= keep_ratio else [])


def test_layer_drop_leaves_a_weak_layer_out() -> None:
    strong, weak = torch.arange(8.0).view(2, 4), torch.zeros(2, 4)
    kept = layer_drop([strong, weak], [2, 2])
    assert [tiles.tolist() for tiles in kept] == [[6, 7], []]


@given(scores(), st.integers(1, 4))
def test_ranks_of_tasks_are_disjoint_and_in_order(score: Tensor, count: int) -> None:
    count = min(count, score.numel())
    seen: list[int] = []
    for task in range(score.numel() // count):
        own = ranks(score, task * count, (task + 1) * count).tolist()
        assert len(own) == count
        assert not set(own) & set(seen)
        seen += own
        assert sorted(seen) == best(score, len(seen))


def test_grow_and_drop_exchanges_the_smallest_for_the_steepest() -> None:
    size = torch.tensor([9.0, 1.0, 2.0, 8.0, 0.0, 7.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 9.0, 9.0, 9.0, 1.0, 9.0, 3.0, 2.0])
    kept = torch.tensor([0, 1, 2, 3, 5])
    # int(5 * 0.4) = 2 go, 1 and 2; although they are steeper, those that come are others: 6 and 7.
    assert grow_and_drop(kept, size, gradient, 0.4).tolist() == [0, 3, 5, 6, 7]
    assert grow_and_drop(kept, size, gradient, 0.19).tolist() == kept.tolist()


def test_grow_and_drop_has_no_more_to_grow_than_was_left_out() -> None:
    score = torch.arange(4.0)
    assert grow_and_drop(torch.tensor([0, 1, 2]), score, score, 1.0).tolist() == [1, 2, 3]
    assert grow_and_drop(torch.arange(4), score, score, 1.0).tolist() == [0, 1, 2, 3]


def test_drop_fraction_falls_in_a_line_to_nothing() -> None:
    fractions = [drop_fraction(update, 4) for update in range(5)]
    assert fractions == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])


@pytest.mark.parametrize(
    ("shape", "keep_ratio", "block", "count"),
    [
        ((1, 1), 1.0, (1, 1), 1),
        ((9216, 3072), 0.1, (1, 1), 2831155),
        ((9216, 3072), 0.1, (16, 16), 11059),
        ((9216, 3072), 0.1, (1, 16), 176947),
        ((16, 16), 1.0, (16, 16), 1),
    ],
)
def test_count_is_rounded_down_to_entries_and_then_to_tiles(
    shape: Any, keep_ratio: float, block: Any, count: int
) -> None:
    assert num_tiles(shape, keep_ratio, block) == count


@pytest.mark.parametrize(("keep_ratio", "error"), [(0.0, InvalidRule), (1.1, InvalidRule)])
def test_keep_ratio_is_above_zero_and_at_most_one(keep_ratio: float, error: Any) -> None:
    with pytest.raises(error):
        num_tiles((8, 8), keep_ratio, (1, 1))


def test_ratio_that_keeps_no_tile_is_refused() -> None:
    with pytest.raises(NothingSelected):
        num_tiles((16, 16), 0.99, (16, 16))


def test_score_that_is_no_number_is_refused() -> None:
    score = torch.tensor([1.0, float("nan")])
    with pytest.raises(ScoreNotFinite):
        top(score, 1)
    with pytest.raises(ScoreNotFinite):
        top_per_row(score[None], 1)


def test_tile_score_is_the_sum_of_its_entries() -> None:
    score = torch.arange(16.0).view(4, 4)
    assert tile_scores(score, (2, 2)).tolist() == [[10.0, 18.0], [42.0, 50.0]]
    assert tile_scores(score, (1, 4)).tolist() == [[6.0], [22.0], [38.0], [54.0]]
