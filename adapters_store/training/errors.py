"""What can go wrong with the core of training, as types that hold their data."""

from collections.abc import Sequence

from adapters_store.errors import StoreError


class TrainingError(StoreError):
    """Base class of the errors of training."""


class NoTarget(TrainingError):
    """No linear layer of the model is called `pattern`, by its own or its logical name."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        super().__init__(f"target {pattern!r}: no linear layer of the model has such a name")


class BlockMisfit(TrainingError):
    """Tiles of `block` do not divide the `shape` of `layer`, or of a part of it."""

    def __init__(self, layer: str, shape: Sequence[int], block: Sequence[int]) -> None:
        self.layer, self.shape, self.block = layer, tuple(shape), tuple(block)
        super().__init__(f"{layer}: {self.shape} is not divisible into tiles of {self.block}")


class InvalidRule(TrainingError):
    """The mask rule's `field` holds `value`, which does not do: `reason`."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field, self.value, self.reason = field, value, reason
        super().__init__(f"{field} {value!r}: {reason}")


class NothingSelected(TrainingError):
    """A keep ratio leaves no entry (no tile) of a matrix of `shape`."""

    def __init__(self, keep_ratio: float, shape: Sequence[int]) -> None:
        self.keep_ratio, self.shape = keep_ratio, tuple(shape)
        super().__init__(f"keep_ratio {keep_ratio}: selects nothing of {self.shape}")


class ScoreNotFinite(TrainingError):
    """A score is not a number: the loss or its gradient is not."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"{count} scores are not numbers: the loss or its gradients are not")


class NoMask(TrainingError):
    """The dense phase of `layer` cannot end: no mask was selected."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        super().__init__(f"{layer}: no mask was selected")


class NotATarget(TrainingError):
    """An adapter to go on from has a `kind` delta of `layer` where nothing is trained."""

    def __init__(self, layer: str, kind: str) -> None:
        self.layer, self.kind = layer, kind
        super().__init__(f"{layer}: its {kind} delta changes what is not trained")
