"""The LoRA baseline: PEFT's, on the same target layers, read back by our own importer.

Knows PEFT's two factors; nothing of masks.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import nn, optim

from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.importers.peft import read_peft
from adapters_store.importers.peft_source import Parts
from adapters_store.training.config import TrainConfig
from adapters_store.training.results import loaded_base
from adapters_store.training.targets import Target, attach, detach
from adapters_store.training.trainable import LossOf

ALPHA_PER_RANK = 2  # alpha = 2 r: the usual choice, and no rank changes the size of a step


class LowRankMethod:
    """LoRA through PEFT, of a rank that has as many parameters as the keep ratio would."""

    phase = "low_rank"

    def __init__(self, model: Any, config: TrainConfig) -> None:
        """Raises NoTarget."""
        self.targets = attach(model, config.targets)
        detach(model, self.targets)
        self.rank = config.lora_rank or equal_rank(self.targets, config.keep_ratio)
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=ALPHA_PER_RANK * self.rank,
            target_modules=[part.name for target in self.targets for part in target.parts],
            task_type="CAUSAL_LM",
        )
        self.model: PeftModel = get_peft_model(model, settings)

    def start(self, calibration: Callable[[], Iterable[LossOf]]) -> None:
        """PEFT has begun: A random, B zero."""

    @property
    def num_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.parameters())

    def parameters(self) -> list[nn.Parameter]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def before_micro_batch(self, loss_of: LossOf, optimizer: optim.Optimizer) -> bool:
        return False

    def after_micro_batch(self, loss_of: LossOf) -> None:
        """Nothing is selected."""

    def state_dict(self) -> dict[str, Any]:
        return {"lora": get_peft_model_state_dict(self.model)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_peft_model_state_dict(self.model, state["lora"])

    def loaded_base(self, name: str) -> BaseIdentity:
        return loaded_base(name, self.targets)

    def adapter(self, base: BaseIdentity, notes: Mapping[str, str]) -> SparseAdapter:
        """The factors of split layers become one layer's, block by block."""
        with tempfile.TemporaryDirectory(prefix="intarsia-") as scratch:
            self.model.save_pretrained(scratch)
            found = read_peft(Path(scratch), base, split_parts(self.targets))
        return replace(found, notes=dict(notes))

    def detach(self) -> None:
        """The model as it was: PEFT's layers are taken out without being merged."""
        self.model.unload()


def equal_rank(targets: Sequence[Target], keep_ratio: float) -> int:
    """The rank (at least 1) whose factors have about `keep_ratio` of the targets' entries."""
    entries = sum(target.shape[0] * target.shape[1] for target in targets)
    parts = [part.linear.shape for target in targets for part in target.parts]
    return max(1, round(keep_ratio * entries / sum(rows + columns for rows, columns in parts)))


def split_parts(targets: Sequence[Target]) -> Parts:
    """Which rows of a logical layer a layer of the model is, as importers ask for it."""
    return {
        _suffix(part.name): (_suffix(target.name), part.first_row, part.linear.shape[0])
        for target in targets
        for part in target.parts
        if part.name != target.name
    }


def _suffix(name: str) -> str:
    """The last two words of a layer's name, which are the same in every decoder layer."""
    return ".".join(name.split(".")[-2:])
