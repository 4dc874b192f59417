"""SHiRA's masks: chosen before training, from the base and a few batches."""

from typing import Any

import pytest
import torch
from training_models import lm_loss, tiny_causal_lm, token_batches

from adapters_store.training.errors import InvalidRule, NothingSelected
from adapters_store.training.rules import MaskRule
from adapters_store.training.static_masks import disjoint_selection, static_selection
from adapters_store.training.trainable import TrainableDeltas

WM = MaskRule(score="wm", keep_ratio=0.1)


@pytest.mark.parametrize("variation", ["phi3-mini", "llama"])
@pytest.mark.parametrize("block", [(1, 1), (1, 16), (16, 16)])
@pytest.mark.parametrize("score", ["struct", "random", "wm", "grad", "snip"])
def test_static_mask_keeps_the_ratio_and_leaves_the_model_as_it_was(
    score: Any, block: Any, variation: str
) -> None:
    model = tiny_causal_lm(variation)
    deltas = TrainableDeltas(model, block=block)
    batches = [lm_loss(model, token_ids) for token_ids in token_batches(2)]
    rule = MaskRule(score=score, keep_ratio=0.1)
    selection = static_selection(deltas, rule, batches)
    for target, tiles in zip(deltas.targets, selection, strict=True):
        assert len(tiles) == rule.count(target)
        assert tiles.unique().equal(tiles)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("score", ["random", "wm", "grad", "snip"])
def test_row_balanced_mask_has_as_many_entries_in_every_row(score: Any) -> None:
    model = tiny_causal_lm()
    deltas = TrainableDeltas(model)
    rule = MaskRule(score=score, keep_ratio=0.1, scope="row")
    batches = [lm_loss(model, token_ids) for token_ids in token_batches(1)]
    for tiles in static_selection(deltas, rule, batches):
        assert (tiles // 64).bincount().tolist() == [6] * 192


def test_random_mask_depends_on_the_seed_and_differs_between_layers() -> None:
    deltas, rule = TrainableDeltas(tiny_causal_lm()), MaskRule(score="random", keep_ratio=0.1)
    first, same, other = (static_selection(deltas, rule, [], seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, same))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


def test_random_mask_of_the_whole_model_keeps_the_ratio_together() -> None:
    deltas = TrainableDeltas(tiny_causal_lm())
    rule = MaskRule(score="random", keep_ratio=0.1, scope="model")
    sizes = [len(tiles) for tiles in static_selection(deltas, rule, [], seed=1)]
    assert sum(sizes) == 2 * 1228
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("block", [(1, 1), (16, 16)])
def test_masks_of_tasks_do_not_overlap(block: Any) -> None:
    deltas = TrainableDeltas(tiny_causal_lm(), block=block)
    tasks = [disjoint_selection(deltas, WM, task) for task in range(1, 11)]
    for target, *own in zip(deltas.targets, *tasks, strict=True):
        together = torch.cat(own)
        assert len(together) == len(together.unique()) == 10 * WM.count(target)
    assert all(map(torch.equal, tasks[0], static_selection(deltas, WM, [])))


@pytest.mark.parametrize(
    ("rule", "task"),
    [(WM, 0), (WM, 11), (MaskRule(score="snip", keep_ratio=0.1), 1)],
)
def test_disjoint_masks_that_do_not_exist_are_refused(rule: MaskRule, task: int) -> None:
    with pytest.raises(InvalidRule):
        disjoint_selection(TrainableDeltas(tiny_causal_lm()), rule, task)


def test_score_that_is_learned_is_no_static_mask() -> None:
    rule = MaskRule(score="mcs", keep_ratio=0.1)
    with pytest.raises(InvalidRule):
        static_selection(TrainableDeltas(tiny_causal_lm()), rule, [])


@pytest.mark.parametrize("score", ["grad", "snip"])
def test_gradient_score_without_batches_is_refused(score: Any) -> None:
    rule = MaskRule(score=score, keep_ratio=0.1)
    with pytest.raises(InvalidRule):
        static_selection(TrainableDeltas(tiny_causal_lm()), rule, [])


def test_gradients_of_a_bf16_base_are_summed_in_fp32() -> None:
    model = tiny_causal_lm(dtype=torch.bfloat16)
    deltas = TrainableDeltas(model)
    gradients = deltas.base_gradients([lm_loss(model, ids) for ids in token_batches(3)])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert not torch.equal(gradients[0], gradients[0].bfloat16().float())


def test_ratio_that_keeps_no_entry_of_a_row_is_refused() -> None:
    rule = MaskRule(score="wm", keep_ratio=0.01, scope="row")  # 0.64 of each row of 64
    with pytest.raises(NothingSelected):
        static_selection(TrainableDeltas(tiny_causal_lm()), rule, [])
