"""What sparse training is compared with: LoRA, full fine-tuning, training on from an adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import changed, load, run_small, small_config

from adapters_store import files
from adapters_store.adapter import DenseDelta, LowRankDelta, SparseAdapter
from adapters_store.training.errors import NotATarget
from adapters_store.training.failures import StartRefused
from adapters_store.training.low_rank import LowRankMethod
from adapters_store.training.report import num_values
from adapters_store.training.train import TrainData, run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing."),
]


@pytest.mark.parametrize("base", ["tiny_base", "tied_base"])
def test_lora_adapter_is_what_peft_trained(
    base: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint: Path = request.getfixturevalue(base)
    ids, logits = torch.tensor([[5, 6, 7, 8]]), []
    detach = LowRankMethod.detach

    def looked_at(method: LowRankMethod) -> None:
        with torch.no_grad():
            logits.append(method.model.eval()(ids).logits)
        detach(method)

    monkeypatch.setattr(LowRankMethod, "detach", looked_at)
    model = load(checkpoint)
    adapter = run_small(small_config(checkpoint, tmp_path, "lora", lora_rank=3), model).adapter
    assert all(isinstance(delta, LowRankDelta) for delta in adapter.deltas)
    assert all(".qkv_proj" in layer for layer in adapter.layers)
    ours = served(checkpoint, adapter)(ids).logits
    torch.testing.assert_close(ours, logits[0])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, load(checkpoint)(ids).logits)


def served(checkpoint: Path, adapter: SparseAdapter) -> Any:
    """The adapter on its base; split layers get their rows of the logical one."""
    model = load(checkpoint).eval().requires_grad_(False)
    names = {name for name, _ in model.named_modules()}
    if adapter.layers[0] in names:
        return changed(checkpoint, adapter).eval().requires_grad_(False)
    for delta in adapter.deltas:
        first = 0
        for part in ("q_proj", "k_proj", "v_proj"):
            weight = model.get_submodule(delta.layer.replace("qkv_proj", part)).weight
            weight.data += delta.dense()[first : first + len(weight)]
            first += len(weight)
    return model


def test_lora_has_about_as_many_parameters_as_the_keep_ratio(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_base, tmp_path, "lora", keep_ratio=0.2, max_steps=1)
    adapter = run_small(config).adapter
    entries = sum(delta.shape[0] * delta.shape[1] for delta in adapter.deltas)
    assert num_values(adapter) == pytest.approx(0.2 * entries, rel=0.1)


def test_full_targets_change_every_entry_of_the_targets_alone(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_base, tmp_path, "full_targets", targets=r".*o_proj")
    adapter = run_small(config).adapter
    assert adapter.layers == tuple(f"model.layers.{i}.self_attn.o_proj" for i in range(2))
    assert all(isinstance(delta, DenseDelta) for delta in adapter.deltas)
    assert all(float((delta.dense() != 0).float().mean()) > 0.99 for delta in adapter.deltas)


@pytest.mark.parametrize(("base", "has_head"), [("tiny_base", True), ("tied_base", False)])
def test_full_model_is_every_linear_layer_but_a_tied_head(
    base: str, has_head: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint: Path = request.getfixturevalue(base)
    config = small_config(checkpoint, tmp_path, "full_model", max_steps=2)
    layers = run_small(config).adapter.layers
    assert len(layers) == 2 * 4 + has_head
    assert ("lm_head" in layers) is has_head


@pytest.fixture
def merged(tiny_base: Path, tmp_path: Path) -> tuple[Path, SparseAdapter]:
    """An adapter to train on from, and its file."""
    (tmp_path / "first").mkdir()
    adapter = run_small(small_config(tiny_base, tmp_path / "first", "random")).adapter
    files.write(adapter, tmp_path / "merged.safetensors")
    return tmp_path / "merged.safetensors", adapter


def test_only_values_of_the_mask_are_trained_on(
    tiny_base: Path, tmp_path: Path, merged: tuple[Path, SparseAdapter]
) -> None:
    path, start = merged
    config = small_config(tiny_base, tmp_path, "mask_of_start", start_from=path)
    found = run_small(config)
    for after, before in zip(found.adapter.deltas, start.deltas, strict=True):
        assert torch.equal(after.tensors["indices"], before.tensors["indices"])
        assert not torch.equal(after.tensors["values"], before.tensors["values"])
    assert found.lineage["start"] == start.digest


@pytest.mark.parametrize("method", ["mask_of_start", "full_targets"])
def test_training_on_begins_with_the_adapter(
    tiny_base: Path, tmp_path: Path, merged: tuple[Path, SparseAdapter], method: str
) -> None:
    path, start = merged
    # The rate of the first step is 0: warm-up begins there.
    config = small_config(tiny_base, tmp_path, method, start_from=path, max_steps=1)
    adapter = run_small(config).adapter
    for after, before in zip(adapter.deltas, start.deltas, strict=True):
        assert torch.equal(after.dense(), before.dense())


def test_full_training_on_leaves_the_mask(
    tiny_base: Path, tmp_path: Path, merged: tuple[Path, SparseAdapter]
) -> None:
    config = small_config(tiny_base, tmp_path, "full_targets", start_from=merged[0])
    adapter = run_small(config).adapter
    assert all(float((delta.dense() != 0).float().mean()) > 0.9 for delta in adapter.deltas)


def test_adapter_that_would_be_lost_in_part_is_refused(
    tiny_base: Path, tmp_path: Path, merged: tuple[Path, SparseAdapter]
) -> None:
    fields = {"start_from": merged[0], "targets": ".*o_proj"}
    with pytest.raises(NotATarget):
        run_small(small_config(tiny_base, tmp_path, "full_targets", **fields))


def test_adapter_of_another_base_is_refused(
    tiny_base: Path, tmp_path: Path, merged: tuple[Path, SparseAdapter]
) -> None:
    config = small_config(tiny_base, tmp_path, "mask_of_start", start_from=merged[0])
    other = load(tiny_base)
    other.model.layers[1].self_attn.qkv_proj.weight.data += 1.0
    with pytest.raises(StartRefused, match=r"model.layers.1.* is of another base"):
        run_small(config, other)


def test_file_that_is_no_adapter_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    config = small_config(
        tiny_base, tmp_path, "mask_of_start", start_from=tmp_path / "x.safetensors"
    )
    with pytest.raises(StartRefused, match=r"x\.safetensors"):
        run(load(tiny_base), TrainData(None, []), config)
