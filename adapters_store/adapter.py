"""What an adapter is: deltas of linear layers, bound to the digests of the weights they change.

Symbols: `W [out, in]` is a layer's weight, row-major; a delta changes it to `W + scale * D`.
Layers carry their logical Phi-3 names (`model.layers.0.self_attn.qkv_proj`). Values here are
assumed checked: `validation.py` is the gate that everything from outside passes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapters_store.digest import adapter_digest, delta_digest, fp32_hex


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightDelta:
    """The change of one weight matrix. `scale` multiplies every value and is rounded to fp32."""

    layer: str
    shape: tuple[int, int]  # (out, in) of the weight that is changed
    scale: float = 1.0

    kind: ClassVar[str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that hold this delta, by their suffix in a file."""
        raise NotImplementedError

    @property
    def nnz(self) -> int:
        """Entries of the weight that this delta names (its mask), zeros included."""
        return self.shape[0] * self.shape[1]

    @property
    def header(self) -> dict[str, Any]:
        """Everything but the tensors: hashed, and written as a file's metadata."""
        return {
            "layer": self.layer,
            "kind": self.kind,
            "shape": list(self.shape),
            "scale": fp32_hex(self.scale),
        }

    def dense(self) -> Tensor:
        """`scale * D` as fp32 `[out, in]`: the meaning of this delta, for tests and merging."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        return _kept(self, lambda: delta_digest(self.header, self.tensors))

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class ElementDelta(WeightDelta):
    """Single entries: `D.flatten()[indices] = values`."""

    indices: Tensor  # [nnz] int32 (int64 where out * in > 2**31), sorted, unique
    values: Tensor  # [nnz] f32, f16 or bf16

    kind: ClassVar[str] = "element"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"indices": self.indices, "values": self.values}

    @property
    def nnz(self) -> int:
        return self.indices.numel()

    def dense(self) -> Tensor:
        flat = torch.zeros(self.shape[0] * self.shape[1])
        flat[self.indices.long()] = self.values.float() * self.scale
        return flat.view(self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockDelta(WeightDelta):
    """Tiles of `(Br, Bc)` entries; tile id = tile_row * (in // Bc) + tile_col.

    With `row_stride` s > 1 the tiles lie in the row-permuted matrix whose row p is row
    `(p % (out // s)) * s + p // (out // s)` of the weight (mttl's strided tiles, s = out / in).
    """

    block: tuple[int, int]  # (Br, Bc)
    block_index: Tensor  # [n] int32, sorted, unique
    values: Tensor  # [n, Br, Bc] f32, f16 or bf16
    row_stride: int = 1

    kind: ClassVar[str] = "block"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"block_index": self.block_index, "values": self.values}

    @property
    def nnz(self) -> int:
        return self.values.numel()

    @property
    def header(self) -> dict[str, Any]:
        return {**super().header, "block": list(self.block), "row_stride": self.row_stride}

    def rows(self) -> Tensor:
        """Weight row of every tile row, `[n, Br]` int64."""
        tiles_per_row = self.shape[1] // self.block[1]
        first = (self.block_index.long() // tiles_per_row) * self.block[0]
        permuted = first[:, None] + torch.arange(self.block[0])
        group = self.shape[0] // self.row_stride
        return (permuted % group) * self.row_stride + permuted // group

    def columns(self) -> Tensor:
        """Weight column of every tile column, `[n, Bc]` int64."""
        tiles_per_row = self.shape[1] // self.block[1]
        first = (self.block_index.long() % tiles_per_row) * self.block[1]
        return first[:, None] + torch.arange(self.block[1])

    def dense(self) -> Tensor:
        weight = torch.zeros(self.shape)
        weight[self.rows()[:, :, None], self.columns()[:, None, :]] = (
            self.values.float() * self.scale
        )
        return weight


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRankDelta(WeightDelta):
    """`D = B @ A`; `scale` is LoRA's alpha / r (or alpha / sqrt(r))."""

    a: Tensor  # [r, in]
    b: Tensor  # [out, r]

    kind: ClassVar[str] = "low_rank"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"lora_A": self.a, "lora_B": self.b}

    def dense(self) -> Tensor:
        return (self.b.float() @ self.a.float()) * self.scale


@dataclass(frozen=True, eq=False, kw_only=True)
class DenseDelta(WeightDelta):
    """`D = delta`: for merges so full that a sparse form would be larger."""

    delta: Tensor  # [out, in]

    kind: ClassVar[str] = "dense"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"delta": self.delta}

    def dense(self) -> Tensor:
        return self.delta.float() * self.scale


@dataclass(frozen=True, eq=False, kw_only=True)
class BiasDelta(WeightDelta):
    """An added bias: `y = W x + scale * bias`. `shape` is still the weight's (out, in)."""

    bias: Tensor  # [out]

    kind: ClassVar[str] = "bias"

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"bias_delta": self.bias}

    @property
    def nnz(self) -> int:
        return self.bias.numel()

    def dense(self) -> Tensor:
        """`scale * bias` as fp32 `[out]`: a bias has no place in the weight."""
        return self.bias.float() * self.scale


def _kept(owner: "WeightDelta | SparseAdapter", make: Callable[[], str]) -> str:
    """The digest of `owner`, which never changes, made when first asked for.

    A `cached_property` holds one lock for all owners before Python 3.12, so that no two threads
    would hash at a time.
    """
    kept: str | None = vars(owner).get("_digest")
    if kept is None:
        kept = vars(owner)["_digest"] = make()
    return kept


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """One linear layer of a base model: the shape of its weight and the digest of its values."""

    shape: tuple[int, int]
    digest: str


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """What an adapter must fit: the base's name and its linear layers by logical name."""

    name: str
    layers: Mapping[str, BaseLayer]


@dataclass(frozen=True, eq=False)
class SparseAdapter:
    """A named set of deltas; at most one weight delta and one bias per layer.

    `notes` (task, training, lineage, ...) travel with the file and are no part of the identity.
    """

    base_name: str
    base: Mapping[str, str]  # layer -> digest of the base weight, for every touched layer
    deltas: tuple[WeightDelta, ...]  # sorted by (layer, kind)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        digests = ((delta.layer, delta.kind, delta.digest) for delta in self.deltas)
        return _kept(self, lambda: adapter_digest(self.base, digests))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({delta.kind for delta in self.deltas}))

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(sorted({delta.layer for delta in self.deltas}))

    @property
    def nnz(self) -> int:
        return sum(delta.nnz for delta in self.deltas)

    @property
    def num_bytes(self) -> int:
        return sum(delta.num_bytes for delta in self.deltas)
