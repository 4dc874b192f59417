"""Each score picks what a dense calculation by hand picks, in fp64, by entries and by tiles."""

from typing import Any

import numpy as np
import pytest
import torch
from training_models import Regression, regression_batches, regression_loss

from adapters_store.training.algorithm1 import Algorithm1
from adapters_store.training.rules import MaskRule
from adapters_store.training.scores import structure
from adapters_store.training.selection import top
from adapters_store.training.static_masks import static_selection
from adapters_store.training.trainable import TrainableDeltas

BLOCKS = [(1, 1), (2, 2), (1, 4), (4, 1)]
KEEP_RATIO = 0.3  # of 32 entries: 9, or 2 tiles of 4
DELTAS = [torch.linspace(-1, 2, 32, dtype=torch.float64).view(8, 4) * s for s in (0.1, -0.2)]


def gradient(model: Regression, layer: int, delta: Any, batches: Any) -> Any:
    """The sum over batches of `(y - t)^T x`, in numpy."""
    weight = model.layers[layer].base.weight.detach().numpy() + delta
    pairs = [(x.numpy(), t.numpy()) for x, t in batches]
    return sum((x @ weight.T - t).T @ x for x, t in pairs)


def best_tiles(score: Any, block: tuple[int, int]) -> list[int]:
    """Ids of the best tiles, by loops: larger sum first, then the lower id."""
    (height, width), (rows, columns) = block, score.shape
    sums = {}
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            total = sum(score[row + i, column + j] for i in range(height) for j in range(width))
            sums[row // height * (columns // width) + column // width] = total
    count = int(rows * columns * KEEP_RATIO) // (height * width)
    return sorted(sorted(sums, key=lambda tile: (-sums[tile], tile))[:count])


LEARNED = {
    "mcs": lambda w, g: w * g,
    "cs": lambda w, g: np.abs(w * g),
    "gradient_magnitude": lambda w, g: np.abs(g),
    "weight_magnitude": lambda w, g: np.abs(w),
}
STATIC = {
    "wm": lambda w, g: np.abs(w),
    "grad": lambda w, g: np.abs(g),
    "snip": lambda w, g: np.abs(w * g),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("score", LEARNED)
def test_score_of_the_delta_picks_what_is_picked_by_hand(score: Any, block: Any) -> None:
    model, batches = Regression(), regression_batches(1)
    deltas = TrainableDeltas(model, block=block)
    deltas.start_dense(DELTAS)
    rule = MaskRule(score=score, keep_ratio=KEEP_RATIO)
    schedule = Algorithm1(deltas=deltas, rule=rule, dense_micro_batches=1, every=1)
    assert schedule.after_micro_batch(regression_loss(model, batches[0]))
    assert deltas.selection is not None
    for layer, tiles in enumerate(deltas.selection):
        delta = DELTAS[layer].numpy()
        by_hand = LEARNED[score](delta, gradient(model, layer, delta, batches))
        assert tiles.tolist() == best_tiles(by_hand, block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("score", STATIC)
def test_score_of_the_base_picks_what_is_picked_by_hand(score: Any, block: Any) -> None:
    model, batches = Regression(), regression_batches(3)
    deltas = TrainableDeltas(model, block=block)
    rule = MaskRule(score=score, keep_ratio=KEEP_RATIO)
    selection = static_selection(deltas, rule, [regression_loss(model, each) for each in batches])
    for layer, tiles in enumerate(selection):
        weight = model.layers[layer].base.weight.detach().numpy()
        by_hand = STATIC[score](weight, gradient(model, layer, 0, batches))
        assert tiles.tolist() == best_tiles(by_hand, block)


def test_signed_and_absolute_sensitivity_differ() -> None:
    """Or else the tests above could not tell MCS from CS."""
    model, batches = Regression(), regression_batches(1)
    TrainableDeltas(model)
    delta = DELTAS[0].numpy()
    g = gradient(model, 0, delta, batches)
    assert best_tiles(delta * g, (1, 1)) != best_tiles(abs(delta * g), (1, 1))


@pytest.mark.parametrize(
    ("shape", "count", "rows"),
    [
        ((4, 4), 3, []),  # less than the diagonal
        ((4, 4), 4, []),
        ((8, 4), 4, []),
        ((8, 4), 7, [0]),  # row 0 adds 3 to the diagonal
        ((8, 4), 11, [0, 4]),  # row 4 is below the diagonal
        ((4, 8), 4 + 7 + 7, [0, 2]),
        ((8, 4), 10, [0, 4]),  # the last row is cut
        ((4, 4), 16, [0, 1, 2, 3]),
    ],
)
def test_structured_mask_is_the_diagonal_and_evenly_spaced_rows(
    shape: tuple[int, int], count: int, rows: list[int]
) -> None:
    whole = torch.zeros(shape)
    whole[rows] = 1
    whole.fill_diagonal_(2)
    expected = top(whole, count)
    assert whole.flatten()[expected].all()
    assert top(structure(shape, count), count).tolist() == expected.tolist()
