"""From the names in a request to what is computed: references, weights, the composition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from adapters_store.merging.recipe import Recipe
from adapters_store.merging.separable import coefficients
from adapters_store.registry import AdapterRecord
from server.adapters.composition import BASE, Composition
from server.adapters.sources import Source
from server.api.dialects import Asked, translate
from server.api.recipes import build_recipe, find_adapter, named_as_in_body
from server.api.routers import ARROW, arrow
from server.api.schemas import GenerationBody
from server.api.services import Services
from server.engine.sequence import Mode
from server.errors import BadRequest, shown

THROUGH = "through_mask_of"  # of `merge`: it says where the result counts, not what it is


class Member(NamedTuple):
    """An adapter version as a request names it."""

    id: str
    digest: str
    weight: float
    nnz: int


@dataclass(frozen=True, slots=True)
class Served:
    """The composition of a request, with the names that it resolved to."""

    model: str  # what the answer calls the model
    composition: Composition
    sources: tuple[Source, ...] = ()  # of the composition's digests
    members: tuple[Member, ...] = ()  # as asked
    merge: str | None = None  # how the members became one change, where that was asked
    mode: Mode = Mode.BATCHED

    @property
    def headers(self) -> dict[str, str]:
        """What served the request, told on every answer."""
        headers = {
            "x-intarsia-composition": _sum_of(self.members) or "base",
            "x-intarsia-digest": ",".join(member.digest for member in self.members) or "base",
            "x-intarsia-mode": self.mode.value,
        }
        return headers if self.merge is None else {**headers, "x-intarsia-merge": self.merge}


def sticky_key(body: GenerationBody, request: Request) -> str:
    """Whose requests a split alias sends to one version: a user's, a session's, else this one's."""
    session = body.session_id or request.headers.get("x-session-id")
    return str(body.user or session or request.state.request_id)


async def resolve(body: GenerationBody, services: Services, key: str | None) -> Served:
    """What `body` asks for. Raises ModelNotFound for an unknown name, never the base instead.

    From here on the request knows digests only: an alias that moves does not move it. What a merge
    would cost is known, and allowed, before anything is computed: InvalidMerge, BaseMismatch,
    MergeTooLarge.
    """
    mode = _mode(body, services)
    served = await run_in_threadpool(_resolve, body, services, key)
    if served.composition == BASE:
        return served
    if mode is Mode.FUSED and served.composition.router is not None:
        raise BadRequest("mode: fused cannot serve routed adapters, token by token", "mode")
    return replace(served, mode=mode)


def _mode(body: GenerationBody, services: Services) -> Mode:
    """The mode that `body` asks for; what asks for the base alone is batched in any."""
    asked = services.mode if body.mode is None else Mode(body.mode)
    if services.mode is Mode.BATCHED and asked is not Mode.BATCHED:
        reason = "this server is set to batched; INTARSIA_MODE=fused or auto lets requests choose"
        raise BadRequest(f"mode: {asked.value} is not served: {reason}", "mode")
    return asked


def _resolve(body: GenerationBody, services: Services, key: str | None) -> Served:
    asked = translate(body, services.base_name, services.store.registry.names)
    if not asked.members:
        return Served(services.base_name, BASE)
    members = [
        _member(services, reference, weight, asked.param.format(index=index), key)
        for index, (reference, weight) in enumerate(asked.members)
    ]
    if len(members) == 1 and asked.merge is None:
        weighted = [(member.digest, member.weight) for member in members]
        return _as_pairs(_sum_of(members), members, services, weighted)
    return _merged(asked, members, services, key)


def _member(
    services: Services, reference: str, weight: float, param: str, key: str | None
) -> Member:
    record = find_adapter(services.store, reference, param, key)
    return Member(record.id, record.digest, weight, record.nnz)


def _merged(asked: Asked, members: Sequence[Member], services: Services, key: str | None) -> Served:
    """Members as one change: summed as they are multiplied, or merged before."""
    fields = dict(asked.merge or {})
    if fields.get("method") == ARROW:
        return _routed(fields, members, services)
    through = _through(fields.pop(THROUGH, None), asked.merge_field, services, key)
    weighted = [(member.digest, member.weight) for member in members]
    recipe = build_recipe(
        weighted, fields, members_field=asked.members_field, merge_field=asked.merge_field
    )
    with named_as_in_body(asked.members_field, asked.merge_field):
        pairs = coefficients(recipe)
    if pairs is not None and through is None and not _is_cheaper_merged(members, services):
        name = _sum_of(members) if recipe.method == "linear" else _call(recipe, members)
        return _as_pairs(name, members, services, pairs, f"{recipe.method}; as=pairs")
    services.merged.foretell(recipe)
    source = services.merged.source(recipe, through.digest if through else None)
    return Served(
        _call(recipe, members) + (f" through {through.id}" if through else ""),
        Composition.linear([(source.digest, 1.0)]),
        (source,),
        tuple(members),
        f"{recipe.method}; as=merged; recipe={recipe.digest}"
        + (f"; through={through.digest}" if through else ""),
    )


def _routed(fields: Mapping[str, Any], members: Sequence[Member], services: Services) -> Served:
    """Members that every token takes its own shares of: nothing is merged."""
    weighted = [(member.digest, member.weight) for member in members]
    composition = arrow(fields, weighted)
    adapters = [services.source(digest) for digest in composition.digests]
    routed = adapters if composition.router is not None else []
    prototypes = [services.prototypes(adapter) for adapter in routed]
    terms = ", ".join(_weighted(member) for member in members)
    return Served(
        f"{ARROW}({terms})",
        composition,
        (*adapters, *prototypes),
        tuple(members),
        f"{ARROW}; as=routed",
    )


def _through(
    reference: object, merge_field: str, services: Services, key: str | None
) -> AdapterRecord | None:
    """The adapter through whose mask the merge is seen."""
    field = f"{merge_field}.{THROUGH}"
    if reference is not None and not isinstance(reference, str):
        raise BadRequest(f"{field}: {shown(reference)} is no reference of an adapter", field)
    return None if reference is None else find_adapter(services.store, reference, field, key)


def _is_cheaper_merged(members: Sequence[Member], services: Services) -> bool:
    """Hangs on the members' content alone, as a request's numerics must."""
    if sum(member.nnz for member in members) <= services.smallest_layer:
        return False  # together they are sparser than one layer, so no sum of them is too full
    return services.merged.is_cheaper([member.digest for member in members])


def _as_pairs(
    name: str,
    members: Sequence[Member],
    services: Services,
    pairs: Sequence[tuple[str, float]],
    merge: str | None = None,
) -> Served:
    composition = Composition.linear(pairs)
    sources = tuple(services.source(digest) for digest in composition.digests)
    return Served(name, composition, sources, tuple(members), merge)


def _call(recipe: Recipe, members: Sequence[Member]) -> str:
    terms = [_weighted(member) for member in members]
    return f"{recipe.method}({', '.join(terms)})"


def _sum_of(members: Sequence[Member]) -> str:
    return "+".join(_weighted(member) for member in members)


def _weighted(member: Member) -> str:
    return member.id if member.weight == 1.0 else f"{member.id}*{member.weight:g}"
