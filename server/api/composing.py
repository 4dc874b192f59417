"""From the names in a request to what is computed: references, weights, the composition."""

from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from adapters_store.errors import AdapterNotFound, InvalidName
from adapters_store.ingest import AdapterStore
from server.adapters.composition import BASE, Composition
from server.api.dialects import Asked, translate
from server.api.members import Merge
from server.api.schemas import GenerationBody
from server.errors import BadRequest, ModelNotFound, shown

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
    asked = await run_in_threadpool(translate, body, base_name, store.registry.names)
    if not asked.members:
        return Served(base_name, BASE)
    _check_merge(asked)
    return await _resolve_members(asked, store, key)


def _check_merge(asked: Asked) -> None:
    """Raise BadRequest unless the members can be merged as asked."""
    if asked.merge is None:
        if len(asked.members) > 1:
            raise BadRequest(
                "several adapters need a merge method; this server has "
                '{"method": "linear"}, the exact weighted sum',
                "merge",
            )
        return
    try:
        Merge.model_validate(dict(asked.merge))
    except ValidationError as error:
        method, reason = shown(asked.merge["method"]), error.errors()[0]["msg"]
        raise BadRequest(
            f"{asked.merge_param}: {method} is not served: {reason}", asked.merge_param
        ) from error


async def _resolve_members(asked: Asked, store: AdapterStore, key: str) -> Served:
    weights = [weight for _, weight in asked.members]
    records = await run_in_threadpool(
        lambda: [
            _find(store, reference, asked.param.format(index=index), key)
            for index, (reference, _) in enumerate(asked.members)
        ]
    )
    members = tuple(
        (name, digest, weight) for (name, digest), weight in zip(records, weights, strict=True)
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
