"""Load and unload as vLLM and SGLang have them, and llama.cpp's list of adapters.

To load is to publish: what a path names, in the registry or inside a source that the operator
allows, becomes a version of a name. To unload is to delete the name, as `DELETE` does, if all of it
was loaded: what somebody uploaded may be the only copy, which vLLM's users would not expect to go.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from adapters_store.errors import AdapterNotFound, InvalidName, SourceNotFound
from adapters_store.names import check_digest, check_name, parse_reference
from adapters_store.registry import AdapterRecord, Publication
from server.api.adapters import delete_adapter
from server.api.aliases import ChangeBody, change_adapter
from server.api.services import Services, ServicesDep, require_json
from server.api.uploads import SUBRESOURCES
from server.errors import BadRequest, NotLoaded

LOADED_FROM = "loaded_from"  # in a version's metadata: what was its path
SAGEMAKER = {"name": "lora_name", "src": "lora_path"}  # its words for ours

Publish = Callable[[bool], Publication]  # for good, or only what it would be

router = APIRouter()
json_only = [Depends(require_json)]


class NameBody(BaseModel):
    """Whom a request is about. Fields that change nothing here are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    lora_name: str

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for theirs, ours in SAGEMAKER.items():
            if theirs in body and ours in body:
                raise BadRequest(f"{theirs} is another word for '{ours}'; give one", theirs)
        return {SAGEMAKER.get(field, field): value for field, value in body.items()}


class LoadBody(NameBody):
    """What vLLM and SGLang take. `lora_path`: a reference, a digest, or inside a source."""

    lora_path: str
    load_inplace: bool = False
    is_3d_lora_weight: bool = False
    pinned: bool = False


@router.post("/v1/load_lora_adapter", dependencies=json_only)
async def load_as_vllm(body: LoadBody, services: ServicesDep) -> Response:
    """Publish an adapter; answers a text."""
    await _load(body, services)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", dependencies=json_only)
async def unload_as_vllm(body: NameBody, services: ServicesDep) -> Response:
    """Delete a name; answers a text."""
    await _unload(body, services)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


@router.post("/load_lora_adapter", dependencies=json_only)
async def load_as_sglang(body: LoadBody, services: ServicesDep) -> JSONResponse:
    """Publish an adapter; answers all that are loaded."""
    await _load(body, services)
    return await run_in_threadpool(_loaded, services)


@router.post("/unload_lora_adapter", dependencies=json_only)
async def unload_as_sglang(body: NameBody, services: ServicesDep) -> JSONResponse:
    """Delete a name; answers all that are left."""
    await _unload(body, services)
    return await run_in_threadpool(_loaded, services)


@router.get("/lora-adapters")
def list_as_llama_cpp(services: ServicesDep) -> JSONResponse:
    """The latest version of each name, by the age of the name; `id` is its position."""
    latest = _latest(services)
    listed = [
        {"id": position, "path": latest[name], "scale": 0.0}
        for position, name in enumerate(services.store.registry.names())
        if name in latest
    ]
    return JSONResponse(listed)


def _loaded(services: Services) -> JSONResponse:
    loaded = _latest(services)
    return JSONResponse({"success": True, "error_message": None, "loaded_adapters": loaded})


def _latest(services: Services) -> dict[str, str]:
    """The id of the latest version of every name."""
    return {row.name: f"{row.name}@{row.version}" for row in services.store.registry.latest()}


async def _unload(body: NameBody, services: Services) -> None:
    check_name(body.lora_name)  # a name, not one of its versions
    state = await run_in_threadpool(services.store.registry.state, body.lora_name)
    uploaded = [version.id for version in state.versions if LOADED_FROM not in version.metadata]
    if uploaded:
        raise NotLoaded(body.lora_name, uploaded)
    await delete_adapter(body.lora_name, services)


async def _load(body: LoadBody, services: Services) -> None:
    """Afterwards the name stands for what the path names; else BadRequest says why not."""
    _check_free(body.lora_name, services)
    if body.is_3d_lora_weight:
        raise BadRequest("is_3d_lora_weight is not served", "is_3d_lora_weight")
    await run_in_threadpool(_publish, body, services)
    if body.pinned:
        await change_adapter(body.lora_name, ChangeBody(pinned=True), services)
    else:
        await services.pins.keep(body.lora_name)


def _publish(body: LoadBody, services: Services) -> None:
    with _content(body, services) as publish:
        if not _is_loaded(body, services, publish):
            publish(False)


def _check_free(name: str, services: Services) -> None:
    check_name(name)
    if name == services.base_name:
        raise BadRequest(f"lora_name: {name!r} is the base model", "lora_name")
    if name.partition("/")[2] in SUBRESOURCES:
        raise BadRequest(f"lora_name: {name!r} would be taken for a route", "lora_name")


def _is_loaded(body: LoadBody, services: Services, publish: Publish) -> bool:
    """Whether the name stands for this content already. BadRequest if it may not come to."""
    name = body.lora_name
    try:
        current = services.store.resolve(name)
    except AdapterNotFound:
        return False
    planned = publish(True)
    if planned.record.digest == current.digest:
        return True
    if not body.load_inplace:
        raise BadRequest(
            f"The lora adapter '{name}' has already been loaded, with other content. "
            "To make this its next version, set 'load_inplace' to true.",
            "lora_name",
        )
    if not planned.created:
        raise BadRequest(
            f"{planned.record.id} is this content, and {current.id} came after it: ask for "
            f"{planned.record.id}, or point an alias at it",
            "lora_path",
        )
    return False


@contextmanager
def _content(body: LoadBody, services: Services) -> Iterator[Publish]:
    """What publishes what `lora_path` names, for as long as it is at hand. SourceNotFound."""
    stored = _stored(body.lora_path, services)
    if stored is not None:
        yield lambda dry_run: _publish_again(stored, body.lora_name, services, dry_run)
        return
    store = services.store
    with store.quarantine() as directory:
        fetched = services.sources.fetch(body.lora_path, directory, store.max_file_bytes)

        def publish(dry_run: bool) -> Publication:
            done = store.ingest(
                fetched.path,
                body.lora_name,
                {LOADED_FROM: body.lora_path},
                signature=fetched.signature,
                dry_run=dry_run,
            )
            return Publication(done.record, done.created)

        yield publish


def _stored(path: str, services: Services) -> AdapterRecord | None:
    """The version that `path` names as a reference or a digest; None if it is neither."""
    for is_form, find in (
        (parse_reference, services.store.resolve),
        (check_digest, services.store.registry.holder),
    ):
        try:
            is_form(path)
        except InvalidName:
            continue
        try:
            return find(path)
        except AdapterNotFound as error:
            raise SourceNotFound(path) from error
    return None


def _publish_again(
    record: AdapterRecord, name: str, services: Services, dry_run: bool
) -> Publication:
    """Content that was checked when it came, signature and all, needs neither again."""
    registry, draft = services.store.registry, record.under(name)
    draft = replace(draft, metadata={**draft.metadata, LOADED_FROM: record.id})
    if dry_run:
        return registry.preview(draft)
    with registry.guard(record.digest) as guarded:
        if not guarded.is_used():
            raise AdapterNotFound(record.id)
        return guarded.publish(draft)
