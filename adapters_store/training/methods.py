"""What a configuration trains: deltas by Algorithm 1, on a static mask, of everything; or LoRA.

Each is a `loop.Trained` that also knows how to begin and what adapter it has become.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn, optim

from adapters_store import files
from adapters_store.adapter import BaseIdentity, BlockDelta, SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.training.algorithm1 import Algorithm1
from adapters_store.training.config import FIXED, TrainConfig
from adapters_store.training.deltas import ELEMENT, Block
from adapters_store.training.failures import StartRefused
from adapters_store.training.loop import Trained
from adapters_store.training.results import loaded_base, selection_of, to_adapter, weights_of
from adapters_store.training.rules import MaskRule
from adapters_store.training.static_masks import disjoint_selection, static_selection
from adapters_store.training.targets import Target
from adapters_store.training.trainable import LossOf, TrainableDeltas

Calibration = Callable[[], Iterable[LossOf]]  # losses of a few micro-batches


class Method(Trained, Protocol):
    """What is trained, from its beginning to its adapter."""

    def start(self, calibration: Calibration) -> None:
        """Begin anew; without it, `load_state_dict` goes on."""

    def loaded_base(self, name: str) -> BaseIdentity:
        """The identity of the layers that are trained, as they were loaded."""

    def adapter(self, base: BaseIdentity, notes: Mapping[str, str]) -> SparseAdapter:
        """What was trained."""

    def detach(self) -> None:
        """Leave the model as it was before."""


@dataclass
class DeltaMethod:
    """Deltas of the target layers; `begin` says where they start."""

    deltas: TrainableDeltas
    begin: Callable[[TrainableDeltas, Calibration], None]
    algorithm: Algorithm1 | None = None

    @property
    def model(self) -> Any:
        return self.deltas.model

    @property
    def phase(self) -> str:
        return self.deltas.phase

    def start(self, calibration: Calibration) -> None:
        self.begin(self.deltas, calibration)

    @property
    def num_bytes(self) -> int:
        return self.deltas.num_bytes

    def parameters(self) -> list[nn.Parameter]:
        return self.deltas.parameters()

    def before_micro_batch(self, loss_of: LossOf, optimizer: optim.Optimizer) -> bool:
        if self.algorithm is None or not self.algorithm.dense_phase_is_over:
            return False
        self.algorithm.start_sparse_phase(loss_of, optimizer)
        return True

    def after_micro_batch(self, loss_of: LossOf) -> None:
        if self.algorithm is not None:
            self.algorithm.after_micro_batch(loss_of)

    def state_dict(self) -> dict[str, Any]:
        schedule = self.algorithm.state_dict() if self.algorithm else {}
        return {"deltas": self.deltas.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.deltas.load_state_dict(state["deltas"])
        if self.algorithm is not None:
            self.algorithm.load_state_dict(state["schedule"])

    def loaded_base(self, name: str) -> BaseIdentity:
        return loaded_base(name, self.deltas.targets)

    def adapter(self, base: BaseIdentity, notes: Mapping[str, str]) -> SparseAdapter:
        return to_adapter(self.deltas, base, notes)

    def detach(self) -> None:
        self.deltas.detach()


def selecting(model: Any, config: TrainConfig, dense_micro_batches: int) -> DeltaMethod:
    """Algorithm 1. Raises NoTarget, BlockMisfit and InvalidRule."""
    deltas = TrainableDeltas(model, config.targets, _block(config))
    algorithm = Algorithm1(
        deltas=deltas,
        rule=_rule(config),
        dense_micro_batches=dense_micro_batches,
        every=config.reselect_every,
        one_shot=config.one_shot,
        seed=config.seed,
    )
    return DeltaMethod(deltas, lambda deltas, _: deltas.start_dense(), algorithm)


def fixed(model: Any, config: TrainConfig) -> DeltaMethod:
    """SHiRA: a static mask. Raises as `selecting` does."""
    rule = _rule(config)

    def begin(deltas: TrainableDeltas, calibration: Calibration) -> None:
        if config.disjoint_task is not None:
            selection = disjoint_selection(deltas, rule, config.disjoint_task)
        else:
            selection = static_selection(deltas, rule, calibration(), config.seed)
        deltas.start_sparse(selection)

    return DeltaMethod(TrainableDeltas(model, config.targets, _block(config)), begin)


def full(model: Any, targets: str, start: SparseAdapter | None = None) -> DeltaMethod:
    """Every entry of the targets, from zero or from what `start` has; NotATarget where not all."""

    def begin(deltas: TrainableDeltas, _: Calibration) -> None:
        deltas.start_dense(weights_of(start, deltas.targets) if start else None)

    return DeltaMethod(TrainableDeltas(model, targets), begin)


def mask_of_start(model: Any, start: SparseAdapter) -> DeltaMethod:
    """The places that `start` names and no others, from its values on."""
    pattern = "|".join(re.escape(layer) for layer in start.layers)

    def begin(deltas: TrainableDeltas, _: Calibration) -> None:
        targets = deltas.targets
        deltas.start_sparse(selection_of(start, targets), weights_of(start, targets))

    return DeltaMethod(TrainableDeltas(model, pattern, _block_of(start)), begin)


def whole_model(model: Any) -> str:
    """A pattern of every linear layer, but an output head whose matrix embeds the inputs too.

    An adapter changes linear layers: norms and embeddings stay as they are.
    """
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        return ".*"
    (name,) = (name for name, module in model.named_modules() if module is head)
    return rf"(?!{re.escape(name)}$).*"


def read_start(path: Path) -> SparseAdapter:
    """The adapter that training goes on from."""
    try:
        return files.read(path)
    except (OSError, AdapterRefused) as error:
        raise StartRefused(f"{path}: {error}") from error


def check_start(start: SparseAdapter, base: BaseIdentity) -> None:
    """Raise StartRefused if `start` is for other weights of a layer that `base` has."""
    for layer, digest in start.base.items():
        known = base.layers.get(layer)
        if known is not None and known.digest != digest:
            raise StartRefused(f"{layer} is of another base")


def is_fixed(config: TrainConfig) -> bool:
    return config.method in FIXED


def _rule(config: TrainConfig) -> MaskRule:
    return MaskRule(score=config.method, keep_ratio=config.keep_ratio, scope=config.scope)  # type: ignore[arg-type]


def _block(config: TrainConfig) -> Block:
    return config.block or ELEMENT


def _block_of(adapter: SparseAdapter) -> Block:
    """The tiles of an adapter that has only tiles of one size, in their places."""
    blocks = {
        delta.block if isinstance(delta, BlockDelta) and delta.row_stride == 1 else ELEMENT
        for delta in adapter.deltas
    }
    return blocks.pop() if len(blocks) == 1 else ELEMENT


def num_parameters(targets: Iterable[Target], keep_ratio: float) -> int:
    """Entries that `keep_ratio` of the targets are."""
    return sum(int(target.shape[0] * target.shape[1] * keep_ratio) for target in targets)
