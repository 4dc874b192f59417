"""From the dense phase to the sparse one: what is carried over, and what state brings back."""

from typing import Any

import pytest
import torch
from training_models import (
    Regression,
    backward,
    gradient_of,
    lm_loss,
    mask_of,
    random_selection,
    regression_batches,
    tiny_causal_lm,
    token_batches,
    train,
)

from adapters_store.training.errors import NoMask
from adapters_store.training.trainable import TrainableDeltas


@pytest.mark.parametrize("variation", ["phi3-mini", "llama"])
@pytest.mark.parametrize("block", [(1, 1), (16, 16), (1, 16)])
def test_sparse_phase_is_dense_training_with_the_mask(block: Any, variation: str) -> None:
    """Two steps without a mask, so that there are moments to carry over, and 50 with one."""
    dense, sparse = (TrainableDeltas(tiny_causal_lm(variation), block=block) for _ in range(2))
    optimizers = []
    for deltas in (dense, sparse):
        deltas.start_dense()
        optimizers.append(torch.optim.AdamW(deltas.parameters(), lr=1e-2, weight_decay=0.01))
        train(deltas.model, optimizers[-1], token_batches(2))
        deltas.select(random_selection(deltas, 0.1))
    sparse.switch(optimizers[1])
    before = [values.clone() for values in sparse.values()]
    batches = token_batches(50, seed=2)
    for deltas, optimizer in zip((dense, sparse), optimizers, strict=True):
        train(deltas.model, optimizer, batches)
    assert sparse.phase == "sparse"
    for ours, theirs, start in zip(sparse.values(), dense.values(), before, strict=True):
        assert (ours - start).abs().max() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_switch_carries_gradients_and_optimizer_state_over() -> None:
    model = tiny_causal_lm()
    deltas = TrainableDeltas(model)
    deltas.start_dense()
    optimizer = torch.optim.AdamW(deltas.parameters(), amsgrad=True)
    train(model, optimizer, token_batches(3))
    backward(lm_loss(model, token_batches(1)[0])())
    old = deltas.parameters()
    grads, states = [gradient_of(p).clone() for p in old], [dict(optimizer.state[p]) for p in old]
    selection = random_selection(deltas, 0.1)
    deltas.select(selection)
    deltas.switch(optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == list(
        map(id, deltas.parameters())
    )
    assert len(optimizer.state) == 2
    for values, tiles, grad, state in zip(
        deltas.parameters(), selection, grads, states, strict=True
    ):
        assert torch.equal(gradient_of(values), grad.flatten()[tiles])
        assert optimizer.state[values]["step"] == state["step"] == 3
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert torch.equal(optimizer.state[values][name], state[name].flatten()[tiles])


def test_layer_without_entries_is_the_base_and_leaves_the_optimizer() -> None:
    model = tiny_causal_lm()
    deltas = TrainableDeltas(model)
    deltas.start_dense()
    optimizer = torch.optim.AdamW(deltas.parameters())
    train(model, optimizer, token_batches(1))
    selection = random_selection(deltas, 0.1)
    deltas.select([selection[0], selection[1][:0]])
    deltas.switch(optimizer)
    assert len(deltas.parameters()) == len(optimizer.state) == 1
    assert len(optimizer.param_groups[0]["params"]) == 1
    assert [len(tiles) for tiles in deltas.selection or ()] == [len(selection[0]), 0]
    train(model, optimizer, token_batches(1))


def test_switch_without_a_mask_is_refused() -> None:
    deltas = TrainableDeltas(tiny_causal_lm())
    deltas.start_dense()
    with pytest.raises(NoMask):
        deltas.switch()


@pytest.mark.parametrize("block", [(1, 1), (16, 16)])
@pytest.mark.parametrize("phase", ["base", "dense", "masked", "sparse"])
def test_state_brings_back_phase_selection_and_values(phase: str, block: Any) -> None:
    first, second = (TrainableDeltas(tiny_causal_lm("llama"), block=block) for _ in range(2))
    if phase != "base":
        first.start_dense()
        train(first.model, torch.optim.AdamW(first.parameters(), lr=0.1), token_batches(1))
    if phase in ("masked", "sparse"):
        first.select(random_selection(first, 0.1))
    if phase == "sparse":
        first.switch()
    second.load_state_dict(first.state_dict())
    ids = token_batches(1)[0]
    assert torch.equal(first.model(ids).logits, second.model(ids).logits)
    assert second.phase == first.phase
    assert (second.selection is None) == (first.selection is None)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_scoring_leaves_masks_and_gradients_alone_and_sees_every_entry() -> None:
    model, (batch,) = Regression(), regression_batches(1)
    deltas = TrainableDeltas(model)
    deltas.start_dense()
    deltas.select([torch.tensor([0, 5]), torch.tensor([7])])
    backward(model.loss(*batch))
    before = [gradient_of(p).clone() for p in deltas.parameters()]
    masks = [mask_of(part) for part in deltas.parts]
    gradients = deltas.dense_gradients(lambda: model.loss(*batch))
    for gradient, accumulated, parameter in zip(
        gradients, before, deltas.parameters(), strict=True
    ):
        assert torch.equal(gradient_of(parameter), accumulated)
        assert gradient.count_nonzero() == 32
        assert accumulated.count_nonzero() < 3
    assert all(mask_of(part) is mask for part, mask in zip(deltas.parts, masks, strict=True))
