"""What the sparse phase keeps in memory beside LoRA of equally many parameters, exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_tokenizer
from torch import Tensor
from training_runs import ROWS, load, small_config

from adapters_store.training import methods
from adapters_store.training.answers import answer_loss
from adapters_store.training.data import Encoder, collate
from adapters_store.training.low_rank import LowRankMethod

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.")  # PEFT's

INDEX_BYTES = 12  # of an entry: its column, its row by columns, its place by columns


def method(base: Path, directory: Path, name: str) -> Any:
    config = small_config(base, directory, name, keep_ratio=0.1)
    made: Any = (LowRankMethod if name == "lora" else methods.fixed)(load(base), config)
    made.start(tuple)
    return made


def bytes_kept_for_backward(made: Any) -> int:
    """Of one micro-batch, each storage once, without what lives longer than it."""
    kept: dict[int, int] = {}
    lasting = {weight.untyped_storage().data_ptr() for weight in made.model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in lasting:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    encoder = Encoder(make_tiny_tokenizer(), "chat", 99, 99)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer_loss(made.model, collate([encoder(row) for row in ROWS[:8]]))
    return sum(kept.values())


@pytest.mark.parametrize("name", ["random", "struct"])
def test_sparse_phase_keeps_no_more_activations_than_lora(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    sparse, lora = (method(tiny_base, tmp_path, each) for each in (name, "lora"))
    assert bytes_kept_for_backward(sparse) <= bytes_kept_for_backward(lora)


def test_an_entry_costs_its_value_and_its_place(tiny_base: Path, tmp_path: Path) -> None:
    sparse = method(tiny_base, tmp_path, "random")
    (rows,) = {part.linear.shape[0] for part in sparse.deltas.parts}
    (columns,) = {part.linear.shape[1] for part in sparse.deltas.parts}
    entries = sum(weight.numel() for weight in sparse.parameters())
    starts = 4 * (rows + columns + 2) * len(list(sparse.deltas.parts))
    assert sparse.num_bytes == entries * (4 + INDEX_BYTES) + starts
