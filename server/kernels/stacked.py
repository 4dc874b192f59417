"""What kernels offer that compute all decoder layers of a step in one call.

A step of few rows takes milliseconds, of which calling operation after operation is a good part;
and whoever calls holds the interpreter's lock between them, for which the web server waits, or
makes wait. The result is that of the single operations, to the bit.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from server.kernels.interface import AttentionBatch, Kernels, Operand


class Layer(NamedTuple):
    """One decoder layer: weights as `Kernels.pack` gave them, and its part of the paged cache."""

    input_norm: Tensor  # [hidden]
    qkv: Tensor
    o: Tensor
    post_norm: Tensor  # [hidden]
    gate_up: Tensor
    down: Tensor
    keys: Tensor  # [P, L, K, D]
    values: Tensor  # [P, L, K, D]


LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


class LayerForm(NamedTuple):
    """What all layers have in common beside their shapes."""

    eps: float  # of the norms
    scale: float  # of the scores
    sliding_window: int | None


class LayerAdapter(Hashable, Protocol):
    """An adapter of a step. What is made of it is kept as long as it lives."""

    @property
    def operands(self) -> Mapping[str, Sequence[Operand]]:
        """By linear layer."""


class FixedPairs(Protocol):
    """Pairs as `DeltaBatch` has them, the same in every layer."""

    @property
    def adapters(self) -> Sequence[LayerAdapter]:
        """Of the segments."""

    @property
    def offsets(self) -> Sequence[int]: ...

    @property
    def tokens(self) -> Tensor: ...

    @property
    def coefficients(self) -> Tensor: ...


Meanwhile = Callable[[], None]  # what is to be begun when a step's long computation begins


class Stack(Protocol):
    """The layers of a model, on one cache."""

    def run(
        self,
        count: int,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        batch: AttentionBatch,
        pairs: FixedPairs | None,
        meanwhile: Meanwhile,
    ) -> bool:
        """Put `hidden [T, n]` through the first `count` layers, in place; `meanwhile` is called
        first, when nothing else is left to do.

        False, with nothing done, where a step is not one to be computed so.
        """


@runtime_checkable
class StackingKernels(Kernels, Protocol):
    """Kernels that know the whole of a layer."""

    def stack(self, layers: Sequence[Layer], form: LayerForm) -> Stack:
        """The stack of `layers`, which are all of the same shapes."""
