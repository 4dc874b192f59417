"""The law of the kernels: what a forward pass asks for, in plain tensors.

`reference.py` is the specification; a faster implementation gives the same numbers within the
tolerance of the test that runs both. Symbols: T tokens in the step, S sequences, H query heads,
K key/value heads, D head size, P pages, L tokens per page.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from adapters_store.adapter import WeightDelta


class Operand(Protocol):
    """One weight delta or bias in the layout that an implementation of `Kernels` multiplies."""

    @property
    def num_bytes(self) -> int:
        """Bytes held on the device."""


@dataclass(frozen=True, slots=True)
class DeltaBatch:
    """Which deltas change which tokens of one linear layer: (token, adapter, coefficient) pairs.

    Pairs are grouped by adapter. Segment i is `tokens[offsets[i]:offsets[i + 1]]`, ascending, and
    is changed by the operands `operands[i]` (none where that adapter leaves this layer alone).
    Segments come in the order of the adapters' digests, so that a token's own deltas are always
    added in the same order, whatever else is in the step.
    """

    operands: Sequence[Sequence[Operand]]  # [num_segments][num_operands of this layer]
    offsets: Sequence[int]  # [num_segments + 1]
    tokens: Tensor  # [num_pairs] int64, rows of the step
    coefficients: Tensor  # [num_pairs] fp32, of this layer


class Entries(NamedTuple):
    """What a sparse delta D changes, entry by entry: `W[places] + scale * values`."""

    places: Tensor  # [n] int64, each once: which numbers of a packed weight; of one that `pack`
    # leaves as it is, the flat row-major indices
    values: Tensor  # [n] fp32
    scale: float


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Where the step's sequences lie, in the step and in the paged cache."""

    query_offsets: Sequence[int]  # [S + 1], rows of the step that belong to each sequence
    context_lengths: Sequence[int]  # [S], tokens of each sequence after this step
    block_tables: Tensor  # [S, max pages] int64 page ids, in order
    slots: Tensor  # [T] int64: page * L + offset, where each token's key and value go
    work: Tensor | None = None  # [n] int64, what kernels that list it ahead make of the first two


class LogitSummary(NamedTuple):
    """What is read of every row of logits `[n, vocab]`, which says nothing if it has a NaN."""

    best: Tensor  # [n] int64, the lowest id of the highest logits
    highest: Tensor  # [n] fp32
    log_sums: Tensor  # [n] fp32, log of the sum of exp(logit - highest); no number if one is none


class Kernels(Protocol):
    """The operations of a forward pass. Outputs are new tensors in the dtype of `x`."""

    @property
    def name(self) -> str:
        """Part of the numerics class: other kernels, or another version, may round otherwise."""

    @property
    def device(self) -> torch.device:
        """Where operands lie, and what `linear` reads."""

    def operand(self, delta: WeightDelta) -> Operand:
        """Lay out `delta` for `linear`, on the device, once, when an adapter becomes resident."""

    def operand_bytes(self, delta: WeightDelta) -> int:
        """Bytes on the device that `operand(delta)` will hold."""

    def pack(self, weight: Tensor) -> Tensor:
        """A base weight `[out, in]` laid out for `linear`, once, when a model is loaded."""

    def can_fuse(self, operand: Operand) -> bool:
        """Whether `operand` changes single entries of its weight, which `entries` can tell."""

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        """What an operand that `can_fuse` changes in the packed `weight`, in any order."""

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        """The numbers of the packed `weight` at `places`, in its dtype."""

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        """Set them, where the weight lies: what holds the tensor is multiplied by the new ones."""

    def warm_up(self, weights: Iterable[Tensor]) -> None:
        """Do ahead what the first steps of a model with these packed weights would wait for."""

    def embed(self, token_ids: Tensor, weight: Tensor) -> Tensor:
        """Rows of `weight [vocab, hidden]`: `[T, hidden]`."""

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        """`x @ W.T` of what was packed plus every pair's `coefficient * scale * (D @ x)`.

        That is `[T, out]`. The delta products are summed in fp32 onto the fp32 product, before the
        one rounding to the dtype of `x`. Rows without pairs are what they are without `deltas`.
        """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root-mean-square norm over the last dimension, in fp32."""

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        """`silu(gate) * up` of `[T, 2 * n]` holding gate, then up: `[T, n]`."""

    def rotate_and_cache(
        self,
        heads: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> Tensor:
        """The rotated queries `[T, H, D]` of `heads [T, H + 2 K, D]`: queries, keys, values.

        RoPE in its rotate-half form, on the first `cos.shape[-1]` of D, turns queries and keys.
        Keys and values go to the `slots [T]` of the caches, `[P, L, K, D]`.
        """

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: AttentionBatch,
        *,
        scale: float,
        sliding_window: int | None,
    ) -> Tensor:
        """Causal attention of `query [T, H, D]` over the paged cache `[P, L, K, D]`: `[T, H, D]`.

        Token i of a sequence sees token j where `j <= i` and, with a window w, `j > i - w`.
        """

    def summarize(self, logits: Tensor) -> LogitSummary:
        """The summary of fp32 `logits [n, vocab]`, each row's from that row alone."""
