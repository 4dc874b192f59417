"""What the routes work with: built once by the composition root, handed to every route."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

from fastapi import Depends, Request

from adapters_store.ingest import AdapterStore
from adapters_store.merging.merger import Merger
from adapters_store.registry import AdapterRecord
from adapters_store.sources import AdapterSources
from server.adapters.composition import Composition
from server.adapters.memory import AdapterMemory
from server.adapters.merged import MergedAdapters
from server.adapters.pins import PinnedNames
from server.adapters.sources import Source
from server.engine.loop import EngineLoop
from server.engine.sequence import Mode
from server.errors import UnsupportedMedia
from server.evaluation.evaluations import Evaluations
from server.jobs.worker import JobWorker
from server.metrics import RequestMetrics
from server.model.text import TextCodec

JSON = "application/json"


class MetricsText(Protocol):
    """Renders the metrics page."""

    def __call__(self) -> bytes: ...


@dataclass(slots=True)
class Stopping:
    """Whether the server was told to stop: what would go on for long ends itself."""

    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use."""

    base_name: str
    codec: TextCodec
    vocab_size: int
    sampling_defaults: Mapping[str, float | int]  # the checkpoint's own
    max_model_len: int
    max_choices: int  # of one request; more could never be queued
    started: int  # unix seconds
    store: AdapterStore
    sources: AdapterSources
    memory: AdapterMemory
    source: Callable[[str], Source]  # of a stored adapter, by digest
    prototypes: Callable[[Source], Source]  # of an adapter, for routers
    merged: MergedAdapters  # what requests merge
    smallest_layer: int  # places of it
    pins: PinnedNames
    leaving: dict[str, AdapterRecord]  # deleted versions that requests still use, by id
    merger: Merger
    jobs: JobWorker
    evaluations: Evaluations
    engine: EngineLoop
    mode: Mode  # of requests that name none; batched: others are not served
    journals: Callable[[Sequence[Source]], Sequence[Source]]  # leased beside what is to be fused
    refusal: Callable[[Composition], str | None]  # why leased adapters cannot be fused
    stopping: Stopping
    metrics: RequestMetrics
    render_metrics: MetricsText
    description: dict[str, Any]  # what /version answers


def get_services(request: Request) -> Services:
    """The services of the application that got this request."""
    return cast(Services, request.app.state.services)


def require_json(request: Request) -> None:
    """Raise UnsupportedMedia unless the body says that it is JSON."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMedia(content_type or None, JSON)


ServicesDep = Annotated[Services, Depends(get_services)]
