"""`POST /v1/merges/diagnose`: what merging stored adapters would do to them, without merging."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from adapters_store.errors import AdapterNotFound, InvalidName, MergeTooLarge
from adapters_store.ingest import AdapterStore
from adapters_store.merging.diagnose import Diagnosis, check_base, diagnose, most_meetings
from adapters_store.merging.diagnostics.report import report
from adapters_store.merging.diagnostics.thresholds import MEASURES, findings
from adapters_store.registry import AdapterRecord
from server.api.members import MAX_MEMBERS, AdapterWeight
from server.api.services import JSON, ServicesDep, require_json
from server.errors import BadRequest, ModelNotFound, shown

MAX_MEETINGS = 50_000_000_000  # pairs of entries: ten minutes of a core, give or take

Bound = Annotated[float, Field(allow_inf_nan=False)]

router = APIRouter(prefix="/v1/merges", dependencies=[Depends(require_json)])


class DiagnoseBody(BaseModel):
    """The members of a merge, and bounds by measure; `layers` false leaves out single layers."""

    model_config = ConfigDict(strict=True, extra="forbid")

    adapters: list[AdapterWeight] = Field(min_length=1, max_length=MAX_MEMBERS)
    warn_if: dict[str, Bound] = Field(default_factory=dict)
    refuse_if: dict[str, Bound] = Field(default_factory=dict)
    layers: bool = True


@router.post("/diagnose")
async def diagnose_merge(body: DiagnoseBody, services: ServicesDep) -> Response:
    """Overlap, conflicts and interference of the members; a verdict where bounds are given.

    The answer is 200 whatever the verdict is: who asked decides.
    """
    _check_measures(body)
    content = await run_in_threadpool(_answer, body, services.store)
    return Response(content, media_type=JSON)


def _check_measures(body: DiagnoseBody) -> None:
    for field in ("warn_if", "refuse_if"):
        for name in getattr(body, field):
            if name not in MEASURES:
                known = ", ".join(MEASURES)
                raise BadRequest(
                    f"{field}: {shown(name)} is no measure; there are {known}", f"{field}.{name}"
                )


def _answer(body: DiagnoseBody, store: AdapterStore) -> bytes:
    """The report as JSON: megabytes for many members, so written here, in a thread."""
    records = [
        _find(store, member.id, f"adapters.{index}.id")
        for index, member in enumerate(body.adapters)
    ]
    weights = [member.weight for member in body.adapters]
    diagnosis = _diagnose(store, [record.digest for record in records], weights)
    members = [
        {"id": record.id, "digest": record.digest, "weight": weight}
        for record, weight in zip(records, weights, strict=True)
    ]
    found = findings(diagnosis, body.warn_if, body.refuse_if)
    told: dict[str, Any] = report(diagnosis, members, found)
    if not body.layers:
        del told["layers"]
    return json.dumps(told, allow_nan=False).encode()


def _find(store: AdapterStore, reference: str, param: str) -> AdapterRecord:
    try:
        return store.resolve(reference)
    except (AdapterNotFound, InvalidName) as error:
        raise ModelNotFound(reference, param) from error


def _diagnose(store: AdapterStore, digests: Sequence[str], weights: Sequence[float]) -> Diagnosis:
    """Raises MergeTooLarge, BaseMismatch and BlobCorrupt: nothing is told of damaged adapters."""
    with ExitStack() as stack:
        readers = {
            digest: stack.enter_context(store.open_reader(digest)) for digest in set(digests)
        }
        check_base(readers.values(), store.base)
        members = [readers[digest] for digest in digests]
        meetings = most_meetings(members)
        if meetings > MAX_MEETINGS:
            raise MergeTooLarge("pairs of entries", meetings, MAX_MEETINGS)
        diagnosis = diagnose(members, weights, store.parts)
        for reader in readers.values():
            reader.verify()
    return diagnosis
