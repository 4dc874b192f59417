"""`PATCH /v1/adapters/{reference}`, `POST /v1/adapters/{name}/rollback`: what moves in a name."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.errors import StoreError
from adapters_store.names import parse_reference
from adapters_store.registry import Change, NameState
from server.adapters.errors import AdapterMemoryError
from server.api.adapters import aliases_json, record_json
from server.api.members import MAX_WEIGHT
from server.api.schemas import one_of
from server.api.services import Services, ServicesDep, require_json
from server.errors import BadRequest

MAX_ALIASES = 64  # in one request
MAX_SPLIT = 64  # versions of one alias

Number = Annotated[int, Field(ge=1, lt=10**9)]
NumberText = Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$")]
Weight = Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)]
Split = Annotated[dict[NumberText, Weight], Field(min_length=1, max_length=MAX_SPLIT)]
Target = Annotated[
    Number | Split | None,
    one_of(f"a version, or versions with weights above 0 and at most {MAX_WEIGHT:g}, or null"),
]

router = APIRouter(prefix="/v1/adapters", dependencies=[Depends(require_json)])


class ChangeBody(BaseModel):
    """What to change; aliases and metadata that are not named stay."""

    model_config = ConfigDict(strict=True, extra="forbid")

    aliases: dict[str, Target] = Field(default_factory=dict, max_length=MAX_ALIASES)
    pinned: bool | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class RollbackBody(BaseModel):
    """Which alias to return to what it stood for before."""

    model_config = ConfigDict(strict=True, extra="forbid")

    alias: str


@router.patch("/{reference:path}")
async def change_adapter(reference: str, body: ChangeBody, services: ServicesDep) -> JSONResponse:
    """Move aliases and pin a name, change a version's metadata: all of it or nothing."""
    is_bare = parse_reference(reference).selector is None
    for field, is_given in (("aliases", body.aliases), ("pinned", body.pinned is not None)):
        if is_given and not is_bare:
            raise BadRequest(f"{field} belongs to a name; leave out what follows the '@'", field)
    aliases = {alias: _weights(target) for alias, target in body.aliases.items()}
    change = Change(aliases, body.pinned, body.metadata)
    state = await run_in_threadpool(services.store.registry.change, reference, change)
    if body.pinned:
        await _pin(state.name, services)
    else:
        await services.pins.keep(state.name)
    return JSONResponse(name_json(state))


@router.post("/{name:path}/rollback")
async def roll_back(name: str, body: RollbackBody, services: ServicesDep) -> JSONResponse:
    """Return an alias to what it stood for before its last move."""
    state = await run_in_threadpool(services.store.registry.roll_back, name, body.alias)
    await services.pins.keep(state.name)
    return JSONResponse(name_json(state))


async def _pin(name: str, services: Services) -> None:
    """Load a name that was pinned just now; a pin that cannot be had is taken back."""
    try:
        await services.pins.refresh(name)
    except (AdapterMemoryError, StoreError):
        change = Change({}, False, {})
        await run_in_threadpool(services.store.registry.change, name, change)
        raise


def name_json(state: NameState) -> dict[str, Any]:
    """A name as it stands: its versions, oldest first, and its aliases."""
    return {
        "object": "adapter.name",
        "name": state.name,
        "pinned": state.pinned,
        "versions": [record_json(record) for record in state.versions],
        "aliases": aliases_json(state),
    }


def _weights(target: int | dict[str, float] | None) -> dict[int, float] | None:
    if isinstance(target, int):
        return {target: 1.0}
    return None if target is None else {int(version): w for version, w in target.items()}
