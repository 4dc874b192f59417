"""The adapters of one step: resident operands, and which token takes how much of which adapter.

Turns the step's compositions into the `DeltaBatch` of each linear layer. Knows neither what an
operand holds (the kernels do), nor how a router chooses, nor when an adapter comes and goes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor

from adapters_store.each import Each, in_turn
from server.adapters.journals import JournalRoom, changed_entries
from server.adapters.prototypes import Prototypes
from server.adapters.routing import Mixture
from server.adapters.sources import Loaded
from server.device.uploads import Arrival
from server.kernels.interface import DeltaBatch, Kernels, Operand


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ResidentAdapter:
    """An adapter on the device that computes, its prototypes, or room for its journal."""

    digest: str
    operands: Mapping[str, tuple[Operand, ...]]  # by linear layer; untouched layers are absent
    num_bytes: int
    directions: Mapping[str, Tensor] = field(default_factory=dict)  # of prototypes, by layer
    entries: Mapping[str, int] = field(default_factory=dict)  # changed one by one, by layer
    arrival: Arrival | None = None  # None: it is there


def resident_bytes(loaded: Loaded, kernels: Kernels, each: Each = in_turn) -> int:
    """Bytes of `loaded` on the device, known before it is laid out; `each` delta's are found."""
    if isinstance(loaded, JournalRoom):
        return loaded.device_bytes
    if isinstance(loaded, Prototypes):
        return loaded.num_bytes
    return sum(each(kernels.operand_bytes, loaded.deltas))


MakeResident = Callable[[str, Loaded, Kernels], "ResidentAdapter"]


def make_resident(
    digest: str, loaded: Loaded, kernels: Kernels, each: Each = in_turn
) -> ResidentAdapter:
    """Lay out `loaded` for `kernels`, on their device, to be known by `digest`.

    `each` applies a function to all deltas; more than one thread may do so.
    """
    if isinstance(loaded, JournalRoom):
        return ResidentAdapter(digest, {}, loaded.device_bytes)
    if isinstance(loaded, Prototypes):
        placed = {layer: v.to(kernels.device) for layer, v in loaded.directions.items()}
        return ResidentAdapter(digest, {}, loaded.num_bytes, placed)
    operands: dict[str, tuple[Operand, ...]] = {}
    for delta, operand in zip(loaded.deltas, each(kernels.operand, loaded.deltas), strict=True):
        operands[delta.layer] = (*operands.get(delta.layer, ()), operand)
    num_bytes = sum(operand.num_bytes for operand in chain(*operands.values()))
    return ResidentAdapter(digest, operands, num_bytes, entries=changed_entries(loaded))


@dataclass(frozen=True, slots=True, eq=False)
class RoutedRows:
    """Rows of a step whose adapters a router shares out, and the pairs that it does so by."""

    mixture: Mixture
    rows: Tensor  # [n] int64, rows of the step, ascending
    places: Tensor  # [N, n] int64, index of each member's pair with each row

    def apply_shares(self, coefficients: Tensor, name: str, x: Tensor) -> None:
        """Multiply those of its pairs by shares in the layer `name`, whose input is `x`."""
        coefficients[self.places] *= self.mixture.shares(name, x[self.rows])

    def select(self, rows: Tensor, kept_before: Tensor) -> "RoutedRows":
        """Those among `rows` alone; of pairs, the `kept_before[place]` kept ones come before."""
        is_kept = torch.isin(self.rows, rows)
        chosen = torch.searchsorted(rows, self.rows[is_kept])
        return RoutedRows(self.mixture, chosen, kept_before[self.places[:, is_kept]])


class SentShares(NamedTuple):
    """What shares of a step's pairs are computed from, where its activations are."""

    coefficients: Tensor  # [num_pairs] fp32
    routed: tuple[RoutedRows, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TokenPairs:
    """(token, adapter, coefficient) pairs of a step, grouped by adapter in digest order.

    The pairs of `adapters[i]` are `offsets[i]:offsets[i + 1]`; their tokens ascend, each once.
    """

    adapters: tuple[ResidentAdapter, ...]
    offsets: tuple[int, ...]  # [num_adapters + 1]
    tokens: Tensor  # [num_pairs] int64, rows of the step
    coefficients: Tensor  # [num_pairs] fp32; shares multiply those of `routed` pairs
    routed: tuple[RoutedRows, ...] = ()
    there: SentShares | None = None  # those of `routed`, if they were sent
    touched: frozenset[str] = field(init=False)  # layers that any of the adapters changes

    def __post_init__(self) -> None:
        touched = frozenset[str]().union(*(adapter.operands for adapter in self.adapters))
        object.__setattr__(self, "touched", touched)

    def for_layer(self, name: str, x: Tensor) -> DeltaBatch | None:
        """The deltas of the linear layer `name`; None where no adapter of the step touches it.

        `x [T, in]` is the layer's input, from which routers take shares.
        """
        if name not in self.touched:
            return None
        operands = [adapter.operands.get(name, ()) for adapter in self.adapters]
        if not self.routed:
            return DeltaBatch(operands, self.offsets, self.tokens, self.coefficients)
        own = self.there or SentShares(self.coefficients, self.routed)
        coefficients = own.coefficients.to(x.device, copy=True)  # where shares come from
        for routed in own.routed:
            routed.apply_shares(coefficients, name, x)
        if x.device.type != "cpu":  # a choice by numbers of a device would wait for them
            return DeltaBatch(operands, self.offsets, self.tokens, coefficients)
        # Whom a router's top_k leaves out costs no product.
        is_kept = coefficients != 0.0
        offsets = _kept_offsets(self.offsets, is_kept)
        return DeltaBatch(operands, offsets, self.tokens[is_kept], coefficients[is_kept])

    @property
    def fixed(self) -> "TokenPairs | None":
        return None if self.routed else self

    def share_numbers(self) -> list[Tensor]:
        """What shares are computed from beside activations, int64 all; none without a router."""
        if not self.routed:
            return []
        numbers = torch.zeros(-(-len(self.coefficients) // 2), dtype=torch.int64)
        numbers.view(torch.float32)[: len(self.coefficients)] = self.coefficients
        return [numbers, *(own for each in self.routed for own in (each.rows, each.places))]

    def with_share_numbers(self, numbers: Sequence[Tensor]) -> "TokenPairs":
        """These pairs, whose `share_numbers` are where activations are, too."""
        if not numbers:
            return self
        packed, *rest = numbers
        placed = zip(self.routed, rest[::2], rest[1::2], strict=True)
        routed = tuple(RoutedRows(own.mixture, rows, at) for own, rows, at in placed)
        coefficients = packed.view(torch.float32)[: len(self.coefficients)]
        return replace(self, there=SentShares(coefficients, routed))

    def select(self, rows: Tensor) -> "TokenPairs | None":
        """The pairs of the step's rows `rows` (ascending), their tokens now positions in `rows`."""
        rows = rows.to(self.tokens.device)
        is_kept = torch.isin(self.tokens, rows)
        offsets = _kept_offsets(self.offsets, is_kept)
        if offsets[-1] == 0:
            return None
        kept_before = is_kept.cumsum(0) - is_kept.long()
        routed = (own.select(rows, kept_before) for own in self.routed)
        return TokenPairs(
            self.adapters,
            offsets,
            torch.searchsorted(rows, self.tokens[is_kept]),
            self.coefficients[is_kept],
            tuple(own for own in routed if len(own.rows)),
        )

    def with_routers(self, mixtures: Iterable[tuple[Mixture, Sequence[int]]]) -> "TokenPairs":
        """These pairs, with routers set over the rows (ascending) of each mixture's composition."""
        return replace(self, routed=tuple(self._route(*own) for own in mixtures))

    def _route(self, mixture: Mixture, rows: Sequence[int]) -> RoutedRows:
        indices = {adapter.digest: index for index, adapter in enumerate(self.adapters)}
        chosen = torch.tensor(rows, device=self.tokens.device)
        places = [
            start + torch.searchsorted(self.tokens[start:end], chosen)
            for index in (indices[member.digest] for member in mixture.members)
            for start, end in [self.offsets[index : index + 2]]
        ]
        return RoutedRows(mixture, chosen, torch.stack(places))


def _kept_offsets(offsets: Sequence[int], is_kept: Tensor) -> tuple[int, ...]:
    """Where the segments at `offsets` lie once nothing but `is_kept` is left."""
    kept_before = [0, *is_kept.cumsum(0).tolist()]
    return tuple(kept_before[offset] for offset in offsets)


Members = Sequence[tuple[ResidentAdapter, float]]


def pair_tokens(
    compositions: Sequence[tuple[int, int, Members]], device: torch.device | str = "cpu"
) -> TokenPairs | None:
    """The pairs of a step, from (first row, number of rows, adapters with their coefficients).

    The ranges of rows ascend without overlap; rows in none of them are the base's. No adapter
    comes twice in a composition. None where no row has an adapter.
    """
    adapters: dict[str, ResidentAdapter] = {}
    tokens: dict[str, list[int]] = defaultdict(list)
    coefficients: dict[str, list[float]] = defaultdict(list)
    for first, num_rows, composition in compositions:
        for adapter, coefficient in composition:
            adapters[adapter.digest] = adapter
            tokens[adapter.digest] += range(first, first + num_rows)
            coefficients[adapter.digest] += [coefficient] * num_rows
    if not adapters:
        return None
    digests = sorted(adapters)
    return TokenPairs(
        tuple(adapters[digest] for digest in digests),
        (0, *accumulate(len(tokens[digest]) for digest in digests)),
        torch.tensor([t for d in digests for t in tokens[d]], dtype=torch.int64, device=device),
        torch.tensor([c for d in digests for c in coefficients[d]], device=device),
    )
