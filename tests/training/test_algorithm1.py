"""Algorithm 1: the order of its updates, its phases, and that it goes on where it was."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from training.accumulating_run import ACCUMULATION, RATE, Run, lm_losses, masks, rule, selected
from training.plain_algorithm1 import PlainAlgorithm1
from training_models import (
    Regression,
    gradient_of,
    mask_of,
    regression_batches,
    regression_loss,
    tiny_causal_lm,
)

from adapters_store.training.algorithm1 import Algorithm1
from adapters_store.training.errors import InvalidRule
from adapters_store.training.rules import MaskRule, Scope
from adapters_store.training.trainable import TrainableDeltas


def close(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def assert_dense_phase(run: Run, plain: PlainAlgorithm1) -> None:
    weights = run.deltas.parameters()
    close([weight.detach() for weight in weights], [own.delta for own in plain.layers])
    if plain.seen % ACCUMULATION:
        close([gradient_of(weight) for weight in weights], [own.gradient for own in plain.layers])
    if plain.seen >= plain.every:
        close(masks(run.deltas), [own.mask for own in plain.layers])


def assert_sparse_phase(run: Run, plain: PlainAlgorithm1) -> None:
    close(run.deltas.values(), [own.delta[own.mask == 1] for own in plain.layers])
    places = [own.mask.reshape(-1).nonzero()[0] for own in plain.layers]
    close(run.deltas.selection or (), places)


def test_updates_come_in_the_order_of_the_plain_algorithm() -> None:
    """Every micro-batch, the selections in mid-accumulation too; then the sparse phase."""
    model, batches = Regression(), regression_batches(20)
    bases = [layer.weight.detach().numpy().copy() for layer in model.layers]
    plain = PlainAlgorithm1(bases, 8, 4, 12, ACCUMULATION, RATE)
    run = Run(model, rule=rule(), dense_micro_batches=12, every=4)
    for number, (x, t) in enumerate(batches, start=1):
        plain.micro_batch(x.numpy(), t.numpy())
        assert run.micro_batch(regression_loss(model, (x, t))) == (number in (4, 8, 12))
        if number <= 12:
            assert_dense_phase(run, plain)
        else:
            assert_sparse_phase(run, plain)
    assert run.deltas.phase == "sparse"


def test_masks_change_between_selections() -> None:
    """Or else the order of updates above would prove little."""
    model = Regression()
    run = Run(model, rule=rule(), dense_micro_batches=12, every=4)
    found = []
    for batch in regression_batches(12):
        if run.micro_batch(regression_loss(model, batch)):
            found.append(np.concatenate(masks(run.deltas)))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


def test_no_mask_is_selected_before_the_delta_has_moved() -> None:
    run = Run(tiny_causal_lm(), rule=rule(), dense_micro_batches=6, every=3)
    losses = lm_losses(run.deltas.model, 3)
    assert [run.micro_batch(loss_of) for loss_of in losses] == [False, False, True]
    assert all(weight.count_nonzero() for weight in run.deltas.parameters())


def test_values_outside_the_mask_stay_and_come_back() -> None:
    run = Run(tiny_causal_lm(), rule=rule(), dense_micro_batches=6, every=3)
    for loss_of in lm_losses(run.deltas.model, 3):
        run.micro_batch(loss_of)
    for weight, part in zip(run.deltas.parameters(), run.deltas.parts, strict=True):
        assert weight[~mask_of(part)].count_nonzero() > 0.9 * (~mask_of(part)).sum()


def test_accumulated_gradients_are_the_same_with_a_selection_in_between() -> None:
    with_selection, without = (tiny_causal_lm() for _ in range(2))
    runs = [
        Run(with_selection, rule=rule("gradient_magnitude"), dense_micro_batches=9, every=4),
        Run(without, rule=rule("gradient_magnitude"), dense_micro_batches=9, every=9),
    ]
    for run in runs:
        for loss_of in lm_losses(run.deltas.model, 4):
            selected = run.micro_batch(loss_of)
        assert selected == (run is runs[0])
    for ours, theirs in zip(*(run.deltas.parameters() for run in runs), strict=True):
        assert torch.equal(gradient_of(ours), gradient_of(theirs))


def test_one_shot_selects_once_on_the_first_micro_batch_after_the_dense_phase() -> None:
    model = Regression()
    run = Run(model, rule=rule(), dense_micro_batches=6, one_shot=True)
    batches = regression_batches(7)
    assert not any(run.micro_batch(regression_loss(model, batch)) for batch in batches[:6])
    assert run.deltas.selection is None
    expected = []
    loss_of = regression_loss(model, batches[6])
    for weight, gradient in zip(
        run.deltas.dense_weights(), run.deltas.dense_gradients(loss_of), strict=True
    ):
        expected.append((weight * gradient).flatten().topk(8).indices.sort().values.tolist())
    run.micro_batch(loss_of)
    assert [tiles.tolist() for tiles in selected(run)] == expected
    assert run.deltas.phase == "sparse"


def test_grow_and_drop_starts_at_random_and_exchanges_less_and_less() -> None:
    runs = [
        Run(tiny_causal_lm(), rule=rule("grow_and_drop"), dense_micro_batches=8, every=2, seed=s)
        for s in (0, 0, 1)
    ]
    found: list[list[set[int]]] = []
    for run in runs:
        chosen = []
        for loss_of in lm_losses(run.deltas.model, 8):
            if run.micro_batch(loss_of):
                chosen.append(set(selected(run)[0].tolist()))
        found.append(chosen)
    assert found[0] == found[1] != found[2]
    assert {len(mask) for mask in found[0]} == {3072}
    new = [len(after - before) for before, after in zip(found[0], found[0][1:], strict=False)]
    assert new == [int(3072 * 0.2 * (1 - t / 4)) for t in (1, 2, 3)]


@pytest.mark.parametrize(
    ("score", "scope"),
    [*(("mcs", scope) for scope in get_args(Scope)), ("grow_and_drop", "row")],
)
@pytest.mark.parametrize("block", [(1, 1), (1, 16), (16, 16)])
def test_every_scope_keeps_the_ratio(score: Any, scope: Any, block: Any) -> None:
    chosen = rule(score, keep_ratio=0.25, scope=scope)
    run = Run(tiny_causal_lm(), block, rule=chosen, dense_micro_batches=4, every=2)
    for loss_of in lm_losses(run.deltas.model, 6):
        run.micro_batch(loss_of)
    kept = [values.numel() for values in run.deltas.values()]
    whole = 192 * 64 // 4
    assert sum(kept) == 2 * whole or (scope == "layer_drop" and sum(kept) == whole)
    if scope == "row":
        assert (
            block != (1, 1)
            or (run.deltas.selection or ())[0].div(64).long().bincount().unique() == 16
        )


@pytest.mark.parametrize("block", [(1, 1), (16, 16)])
@pytest.mark.parametrize("stop", [0, 2, 4, 7, 9, 10, 13])
def test_interrupted_run_ends_with_the_same_bits(stop: int, block: Any) -> None:
    schedule = {"rule": rule("grow_and_drop"), "dense_micro_batches": 9, "every": 4}
    whole, first, second = (Run(tiny_causal_lm(), block, **schedule) for _ in range(3))
    for loss_of in lm_losses(whole.deltas.model, 15):
        whole.micro_batch(loss_of)
    for loss_of in lm_losses(first.deltas.model, stop):
        first.micro_batch(loss_of)
    second.load(first.save())
    for loss_of in lm_losses(second.deltas.model, 15)[stop:]:
        second.micro_batch(loss_of)
    assert second.deltas.phase == "sparse"
    for ours, theirs in zip(second.deltas.values(), whole.deltas.values(), strict=True):
        assert torch.equal(ours, theirs)
    assert_same(second.deltas.selection, whole.deltas.selection)


def assert_same(ours: tuple[Tensor, ...] | None, theirs: tuple[Tensor, ...] | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({"rule": rule(), "every": 0}, "every"),
        ({"rule": rule(), "every": 5}, "every"),  # no selection in a phase of 4
        ({"rule": MaskRule(score="snip", keep_ratio=0.1)}, "score"),
        ({"rule": rule("grow_and_drop"), "one_shot": True}, "one_shot"),
    ],
)
def test_schedule_that_cannot_select_is_refused(schedule: Any, field: str) -> None:
    deltas = TrainableDeltas(Regression())
    deltas.start_dense()
    with pytest.raises(InvalidRule) as error:
        Algorithm1(deltas=deltas, dense_micro_batches=4, **schedule)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"keep_ratio": 0.0}, "keep_ratio"),
        ({"keep_ratio": 1.5}, "keep_ratio"),
        ({"score": "magic"}, "score"),
        ({"scope": "planet"}, "scope"),
        ({"score": "grow_and_drop", "scope": "model"}, "scope"),
        ({"score": "struct", "scope": "row"}, "scope"),
    ],
)
def test_rule_that_means_nothing_is_refused(fields: Any, field: str) -> None:
    with pytest.raises(InvalidRule) as error:
        MaskRule(**{"score": "mcs", "keep_ratio": 0.1, **fields})
    assert error.value.field == field
