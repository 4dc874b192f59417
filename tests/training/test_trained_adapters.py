"""What was trained becomes an adapter that the store takes and the server computes alike."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_runs import PagedRun
from tiny_models import make_tiny_checkpoint
from torch import Tensor
from training_models import random_selection, token_batches, train
from transformers import AutoModelForCausalLM

from adapters_store.adapter import BaseIdentity, BiasDelta, SparseAdapter
from adapters_store.files import read, write
from adapters_store.training.errors import NotATarget
from adapters_store.training.results import loaded_base, selection_of, to_adapter, weights_of
from adapters_store.training.trainable import TrainableDeltas
from adapters_store.validation import Limits, check
from server.adapters.delta import make_resident, pair_tokens
from server.kernels.reference import ReferenceKernels
from server.model.checkpoint import open_checkpoint
from server.model.identity import base_identity
from server.model.load import load_model

LIMITS = Limits(max_file_bytes=1 << 24, max_nnz=1 << 20)
TOLERANCE = 2e-5  # of the largest logit
PHASES = ["dense", "masked", "sparse"]


@pytest.fixture(scope="module", params=["phi3-mini", "llama"])
def checkpoint(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("trained"), request.param)


def trained(
    checkpoint: Path, phase: str, block: tuple[int, int] = (1, 1), target: str = ".*qkv_proj"
) -> TrainableDeltas:
    """A training of the checkpoint that ended in `phase`."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    deltas = TrainableDeltas(model, target, block)
    deltas.start_dense()
    optimizer = torch.optim.AdamW(deltas.parameters(), lr=1e-2)
    if phase != "dense":
        deltas.select(random_selection(deltas, 0.2))
    if phase == "sparse":
        deltas.switch(optimizer)
    train(model, optimizer, token_batches(5))
    return deltas


def stored_base(checkpoint: Path) -> BaseIdentity:
    return base_identity("tiny", open_checkpoint(str(checkpoint)), None)


def server_logits(checkpoint: Path, adapter: SparseAdapter, ids: Sequence[Tensor]) -> Tensor:
    kernels = ReferenceKernels("cpu")
    model = load_model(open_checkpoint(str(checkpoint)), torch.float32, "cpu", kernels)
    run = PagedRun(model)
    resident = make_resident(adapter.digest, adapter, kernels)
    rows = [(i * len(own), len(own), [(resident, 1.0)]) for i, own in enumerate(ids)]
    return torch.stack(run.step([(run.add(own), len(own)) for own in ids], pair_tokens(rows)))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("block", [(1, 1), (16, 16), (1, 16)])
def test_server_gives_the_trained_models_logits(
    phase: str, block: Any, checkpoint: Path, tmp_path: Path
) -> None:
    deltas, base = trained(checkpoint, phase, block), stored_base(checkpoint)
    written = to_adapter(deltas, base, {"task": "none"})
    write(written, tmp_path / "a.safetensors")
    adapter = read(tmp_path / "a.safetensors")
    check(adapter, base, LIMITS)
    assert adapter.digest == written.digest
    assert adapter.notes == {"task": "none"}
    expected = {"dense": "dense"}.get(phase, "element" if block == (1, 1) else "block")
    assert adapter.kinds == (expected,)
    ids = token_batches(1, seed=8)[0]
    with torch.inference_mode():
        reference = deltas.model(ids).logits
    ours = server_logits(checkpoint, adapter, list(ids))
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()
    deltas.detach()
    assert (deltas.model(ids).logits - reference).abs().max() > 0.1  # the adapter did something


def test_layers_are_those_of_the_checkpoint_by_name_and_digest(checkpoint: Path) -> None:
    deltas = trained(checkpoint, "sparse")
    stored, loaded = stored_base(checkpoint), loaded_base("tiny", deltas.targets)
    assert loaded.layers == {name: stored.layers[name] for name in loaded.layers}
    assert to_adapter(deltas, loaded, {}).digest == to_adapter(deltas, stored, {}).digest


def test_layer_that_keeps_nothing_is_absent(checkpoint: Path) -> None:
    deltas = trained(checkpoint, "masked")
    assert deltas.selection is not None
    deltas.select([deltas.selection[0][:0], deltas.selection[1]])
    adapter = to_adapter(deltas, stored_base(checkpoint), {})
    check(adapter, stored_base(checkpoint), LIMITS)
    assert adapter.layers == ("model.layers.1.self_attn.qkv_proj",)
    deltas.switch()
    assert to_adapter(deltas, stored_base(checkpoint), {}).digest == adapter.digest


@pytest.mark.parametrize("block", [(1, 1), (16, 16)])
def test_parts_that_are_trained_alone_lie_in_their_own_rows(block: Any, tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path, "llama")
    deltas = trained(checkpoint, "sparse", block, r".*\.(q|v)_proj")
    adapter = to_adapter(deltas, stored_base(checkpoint), {})
    check(adapter, stored_base(checkpoint), LIMITS)
    rows = adapter.deltas[0].dense().count_nonzero(dim=1)
    assert rows[64:96].sum() == 0  # k
    assert rows[:64].sum() > 0
    assert rows[96:].sum() > 0
    ids = token_batches(1, seed=8)[0]
    reference = deltas.model(ids).logits.detach()
    ours = server_logits(checkpoint, adapter, list(ids))
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


@pytest.mark.parametrize("block", [(1, 1), (16, 16)])
def test_training_goes_on_from_an_adapter(block: Any, checkpoint: Path) -> None:
    """Sparse, at the adapter's places; or dense, from its values: the same model either way."""
    first = trained(checkpoint, "sparse", block)
    adapter = to_adapter(first, stored_base(checkpoint), {})
    ids = token_batches(1)[0]
    expected = first.model(ids).logits
    for phase in ("sparse", "dense"):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        deltas = TrainableDeltas(model, block=block)
        weights = weights_of(adapter, deltas.targets)
        if phase == "sparse":
            deltas.start_sparse(selection_of(adapter, deltas.targets), weights)
            assert to_adapter(deltas, stored_base(checkpoint), {}).digest == adapter.digest
        else:
            deltas.start_dense(weights)
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)


def test_places_with_a_value_of_zero_belong_to_the_selection(checkpoint: Path) -> None:
    deltas = trained(checkpoint, "sparse")
    selection = deltas.selection
    deltas.start_sparse(selection or ())
    adapter = to_adapter(deltas, stored_base(checkpoint), {})
    assert all(map(torch.equal, selection_of(adapter, deltas.targets), selection or ()))


def test_adapter_of_what_is_not_trained_is_nothing_to_go_on_from(checkpoint: Path) -> None:
    deltas = trained(checkpoint, "sparse")
    adapter = to_adapter(deltas, stored_base(checkpoint), {})
    bias = BiasDelta(layer=adapter.layers[0], shape=adapter.deltas[0].shape, bias=torch.ones(1))
    foreign = replace(adapter.deltas[0], layer="model.layers.0.mlp.down_proj")
    for delta in (bias, foreign):
        with pytest.raises(NotATarget):
            weights_of(replace(adapter, deltas=(*adapter.deltas, delta)), deltas.targets)
