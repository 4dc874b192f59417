"""Which layers of a model are trained, and that the model is its own before and after."""

import pytest
import torch
from training_models import random_selection, tiny_causal_lm, token_batches

from adapters_store.training.deltas import DeltaLinear
from adapters_store.training.errors import BlockMisfit, NoTarget
from adapters_store.training.trainable import TrainableDeltas


@pytest.mark.parametrize("variation", ["phi3-mini", "llama"])
def test_model_is_unchanged_until_it_is_trained_and_after_detaching(variation: str) -> None:
    model, ids = tiny_causal_lm(variation), token_batches(1)[0]
    before, names = model(ids).logits, list(model.state_dict())
    deltas = TrainableDeltas(model)
    deltas.start_dense()
    assert torch.equal(model(ids).logits, before)
    deltas.start_sparse(random_selection(deltas, 0.1))
    assert torch.equal(model(ids).logits, before)
    assert [name for name, p in model.named_parameters() if p.requires_grad]
    deltas.detach()
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("variation", "pattern", "names", "num_parts", "shape"),
    [
        ("phi3-mini", ".*qkv_proj", "qkv_proj", 1, (192, 64)),
        ("llama", ".*qkv_proj", "qkv_proj", 3, (128, 64)),
        ("llama", r".*\.(q|k|v)_proj", "qkv_proj", 3, (128, 64)),
        ("llama", r".*\.v_proj", "qkv_proj", 1, (32, 64)),
        ("llama", r".*gate_up_proj", "gate_up_proj", 2, (192, 64)),
        ("phi3-mini", r".*\.down_proj", "down_proj", 1, (64, 96)),
    ],
)
def test_targets_are_logical_layers(
    variation: str, pattern: str, names: str, num_parts: int, shape: tuple[int, int]
) -> None:
    deltas = TrainableDeltas(tiny_causal_lm(variation), pattern)
    assert [target.name.split(".")[-1] for target in deltas.targets] == [names] * 2
    assert [len(target.parts) for target in deltas.targets] == [num_parts] * 2
    assert [target.shape for target in deltas.targets] == [shape] * 2


def test_unknown_target_and_tiles_that_do_not_divide_are_refused() -> None:
    model = tiny_causal_lm()
    with pytest.raises(NoTarget):
        TrainableDeltas(model, ".*qkvproj")
    with pytest.raises(BlockMisfit):
        TrainableDeltas(model, block=(5, 1))
    assert not any(isinstance(each, DeltaLinear) for each in model.modules())
