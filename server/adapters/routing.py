"""Shares that come from a token's own input: how much of which adapter it takes, layer by layer.

Arrow: in a linear layer with input x, the members that have a prototype v there take shares of
`softmax(|x . v| / temperature)`. A member without one (it leaves the layer alone, or changes only
the bias there) is no part of that softmax; a bias of such a member gets 1 / M, M being the members
that change the layer at all. A bias beside a weight delta gets that delta's share.

A row's shares are the same bits whatever other rows are computed beside it, on a CPU:
nothing here is a matrix product, whose order of summation may depend on the number of rows.
Nothing here waits for a device either: no shape and no choice of members depends on a number there.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from server.adapters.composition import ArrowRouter

PRODUCTS_AT_ONCE = 1 << 20  # bounds temporary memory: 4 bytes each


class RoutedMember(NamedTuple):
    """What a router knows of one adapter."""

    digest: str
    layers: Container[str]  # that it changes
    directions: Mapping[str, Tensor]  # its prototypes: [in] fp32, by layer


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """The N members of a routed composition, in the order of their digests."""

    router: ArrowRouter
    members: tuple[RoutedMember, ...]

    def shares(self, layer: str, x: Tensor) -> Tensor:
        """Every member's share of rows `x [n, in]` of the input of `layer`: `[N, n]` fp32.

        Members that leave the layer alone have a share that nobody reads.
        """
        known = [own.directions[layer] for own in self.members if layer in own.directions]
        even = x.new_full((len(x),), self._even(layer), dtype=torch.float32)
        if not known:
            return even.expand(len(self.members), -1)
        found = iter(arrow_shares(self.router, x.float(), torch.stack(known)).unbind(-1))
        shares = [next(found) if layer in own.directions else even for own in self.members]
        return torch.stack(shares)

    def _even(self, layer: str) -> float:
        return 1 / max(1, sum(layer in member.layers for member in self.members))


def arrow_shares(router: ArrowRouter, x: Tensor, directions: Tensor) -> Tensor:
    """Shares `[n, N]` of N prototypes `directions [N, in]` in rows `x [n, in]`, all fp32."""
    logits = _products(x, directions).abs()
    if router.top_k is not None:
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        logits = logits.scatter(-1, order[:, router.top_k :], -torch.inf)
    return ((logits - logits.amax(-1, keepdim=True)) / router.temperature).softmax(-1)


def _products(x: Tensor, directions: Tensor) -> Tensor:
    rows_at_once = max(1, PRODUCTS_AT_ONCE // directions.numel())
    return torch.cat([(rows[:, None] * directions).sum(-1) for rows in x.split(rows_at_once)])
