"""From the names in a request to what is computed: references, weights, the composition."""

from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from adapters_store.errors import AdapterNotFound, InvalidName
from adapters_store.ingest import AdapterStore
from server.adapters.composition import BASE, Composition
from server.api.schemas import GenerationBody
from server.errors import BadRequest, ModelNotFound

MODE = "batched"


@dataclass(frozen=True, slots=True)
class Served:
    """The composition of a request, with the names that it resolved to."""

    model: str  # what the answer calls the model
    composition: Composition
    members: tuple[tuple[str, str, float], ...] = ()  # (adapter id, digest, weight) as asked

    @property
    def headers(self) -> dict[str, str]:
        """What served the request, told on every answer."""
        named = "+".join(_weighted(name, weight) for name, _, weight in self.members)
        return {
            "x-intarsia-composition": named or "base",
            "x-intarsia-digest": ",".join(digest for _, digest, _ in self.members) or "base",
            "x-intarsia-mode": MODE,
        }


def sticky_key(body: GenerationBody, request: Request) -> str:
    """Whose requests a split alias sends to one version: a user's, a session's, else this one's."""
    session = body.session_id or request.headers.get("x-session-id")
    return str(body.user or session or request.state.request_id)


async def resolve(body: GenerationBody, base_name: str, store: AdapterStore, key: str) -> Served:
    """What `body` asks for. Raises ModelNotFound for an unknown name, never the base instead.

    From here on the request knows digests only: an alias that moves does not move it.
    """
    names_base = body.model is None or body.model == base_name
    if body.adapters is None:
        if body.merge is not None:
            raise BadRequest("merge needs the field 'adapters'", "merge")
        if names_base:
            return Served(base_name, BASE)
        return await _resolve_members([(str(body.model), 1.0)], "model", store, key)
    if not names_base:
        raise BadRequest("name the base in 'model' when 'adapters' is given, or neither", "model")
    if len(body.adapters) > 1 and body.merge is None:
        raise BadRequest(
            "several adapters need a merge method; this server has "
            '{"method": "linear"}, the exact weighted sum',
            "merge",
        )
    weighted = [(member.id, member.weight) for member in body.adapters]
    return await _resolve_members(weighted, "adapters.{index}.id", store, key)


async def _resolve_members(
    weighted: list[tuple[str, float]], param: str, store: AdapterStore, key: str
) -> Served:
    """`param` is the field that names the member `{index}`."""
    records = await run_in_threadpool(
        lambda: [
            _find(store, reference, param.format(index=index), key)
            for index, (reference, _) in enumerate(weighted)
        ]
    )
    members = tuple(
        (name, digest, weight)
        for (name, digest), (_, weight) in zip(records, weighted, strict=True)
    )
    composition = Composition.linear((digest, weight) for _, digest, weight in members)
    model = "+".join(_weighted(name, weight) for name, _, weight in members)
    return Served(model, composition, members)


def _find(store: AdapterStore, reference: str, param: str, key: str) -> tuple[str, str]:
    try:
        record = store.resolve(reference, key)
    except (AdapterNotFound, InvalidName) as error:
        raise ModelNotFound(reference, param) from error
    return record.id, record.digest


def _weighted(name: str, weight: float) -> str:
    return name if weight == 1.0 else f"{name}*{weight:g}"
