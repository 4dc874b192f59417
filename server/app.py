"""The composition root: settings in, application out. With `storage.py`, where things are built."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.exceptions import HTTPException

import server
from adapters_store.merging.warmup import warm_up as warm_up_merges
from server.adapters.background import in_passing, one_core_each, start_pool
from server.adapters.merged import MergedAdapters
from server.adapters.pins import PinnedNames
from server.adapters.sources import JournalOf, PrototypesOf, Source
from server.api import (
    adapters,
    aliases,
    chat,
    completions,
    datasets,
    diagnose,
    evaluations,
    health,
    jobs,
    loading,
    merges,
    models,
    stats,
    tokenization,
    uploads,
)
from server.api.failures import show_http_error, show_known, show_unreadable
from server.api.middleware import AnswerDefects, ApiKey, BodyLimit, CountAnswers, RequestId
from server.api.services import Services, Stopping
from server.engine.fuser import Fuser
from server.engine.loop import EngineLoop
from server.errors import TABLE
from server.evaluation.asking import RowReader
from server.evaluation.engine_room import EngineRoom
from server.evaluation.subjects import SourcesOf
from server.metrics import (
    EngineCollector,
    EvaluationCounts,
    FusedCollector,
    MergeCollector,
    RequestMetrics,
    render,
)
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.demo_base import NAME as DEMO_NAME
from server.model.demo_base import ensure_demo_base
from server.model.text import TextCodec
from server.runtime import Runtime, build_runtime
from server.settings import DEMO, Settings
from server.storage import (
    Report,
    open_evaluations,
    open_jobs,
    open_merger,
    open_sources,
    open_store,
)

UPLOAD_ROUTE, DATASET_ROUTE = "/v1/adapters", "/v1/datasets"
MERGE_NICENESS = 15  # running requests come first
FORM_OVERHEAD = 1 << 20  # bytes of an upload's form around the file

logger = logging.getLogger(__name__)


def create_app(settings: Settings, report: Report = logger.info) -> FastAPI:
    """The whole server for `settings`; `report` hears what start-up is doing.

    Raises SettingsConflict or ModelError where it cannot be served as asked.
    """
    services = in_passing(lambda: build_services(settings, report))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services.engine.start()
        with one_core_each():  # all but the engine
            services.pins.start()
            for name in services.store.registry.pinned_names():
                await services.pins.keep(name)
            services.jobs.start()
            services.evaluations.worker.start()
            yield
        services.evaluations.worker.stop()
        services.jobs.stop()
        services.engine.stop()
        services.store.close()

    app = FastAPI(
        title="Intarsia",
        version=server.__version__,
        lifespan=lifespan,
        redirect_slashes=False,  # every path has one form, and no answer leads elsewhere
    )
    app.state.services = services
    # A reference may hold slashes: what follows one is looked for first.
    for part in (
        completions,
        chat,
        models,
        diagnose,
        merges,
        jobs,
        datasets,
        evaluations,
        uploads,
        stats,
        aliases,
        adapters,
        loading,
        tokenization,
        health,
    ):
        app.include_router(part.router)
    _handle_errors(app)
    _wrap(app, settings, services)
    return app


def build_services(settings: Settings, report: Report) -> Services:
    """Everything behind the routes."""
    checkpoint = _open_base(settings, report)
    base_name = _base_name(settings, checkpoint)
    store = open_store(settings, checkpoint, base_name, report)
    merger = open_merger(settings, store)
    with ThreadPoolExecutor(1) as beside:  # loading leaves the interpreter to others
        merges = beside.submit(warm_up_merges)
        runtime = build_runtime(settings, checkpoint, store.load, report)
    merges.result()
    quiet = start_pool("merges", 1, niceness=MERGE_NICENESS)
    merged = MergedAdapters(merger.merge, merger.predict, store.load, quiet)
    config = runtime.engine.config
    pins = PinnedNames(runtime.memory, runtime.source, store.registry.pinned_digests)
    counts = EvaluationCounts()
    registry = _metrics(runtime, merged, counts, base_name)
    codec, engine = TextCodec(checkpoint.tokenizer), EngineLoop(runtime.engine)
    if runtime.fuser is not None:
        runtime.memory.ask_back = _asking_back(runtime.fuser, engine)

    def prototypes(source: Source) -> PrototypesOf:
        return PrototypesOf(source, runtime.memory.host.fetch, quiet)

    sources = SourcesOf(runtime.source, prototypes, merged)
    in_flight = max(1, config.max_num_seqs // 2)
    return Services(
        base_name=base_name,
        codec=codec,
        vocab_size=checkpoint.config.vocab_size,
        sampling_defaults=checkpoint.sampling_defaults,
        max_model_len=config.max_model_len,
        max_choices=config.max_queued_requests,
        started=int(time.time()),
        store=store,
        sources=open_sources(settings),
        memory=runtime.memory,
        source=runtime.source,
        prototypes=prototypes,
        merged=merged,
        smallest_layer=min(math.prod(layer.shape) for layer in store.base.layers.values()),
        pins=pins,
        leaving={},
        merger=merger,
        jobs=open_jobs(settings, store, merger, pins.keep_soon),
        evaluations=open_evaluations(
            settings,
            store,
            lambda plan: RowReader(plan, codec, config.max_model_len),
            lambda: EngineRoom(engine, runtime.memory, sources, in_flight),
            pins.keep_soon,
            counts,
        ),
        engine=engine,
        mode=runtime.mode,
        journals=_journals(runtime),
        refusal=runtime.fuser.refusal if runtime.fuser is not None else lambda composition: None,
        stopping=Stopping(),
        metrics=RequestMetrics(registry),
        render_metrics=lambda: render(registry),
        description=_description(base_name, runtime),
    )


def _journals(runtime: Runtime) -> Callable[[Sequence[Source]], tuple[Source, ...]]:
    """Makes the sources of room for journals, by adapter; none where nothing ever fuses."""
    fuser, fetch = runtime.fuser, runtime.memory.host.fetch
    entries_of = runtime.memory.device.entries_of
    if fuser is None:
        return lambda adapters: ()
    size = fuser.journal_bytes
    return lambda adapters: tuple(JournalOf(own, fetch, size, entries_of) for own in adapters)


def _asking_back(fuser: Fuser, engine: EngineLoop) -> Callable[[str], None]:
    """Has an adapter taken out of the weights, between two steps."""
    return lambda digest: engine.between_steps(lambda: fuser.let_go(digest))


def _metrics(
    runtime: Runtime, merged: MergedAdapters, evaluated: EvaluationCounts, base_name: str
) -> CollectorRegistry:
    """What the metrics page reads."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    max_num_seqs = runtime.engine.config.max_num_seqs
    registry.register(
        EngineCollector(runtime.engine.stats, runtime.memory, base_name, max_num_seqs)
    )
    registry.register(MergeCollector(merged.counts))
    if runtime.fuser is not None:
        registry.register(FusedCollector(runtime.fuser))
    registry.register(evaluated)
    return registry


def _description(base_name: str, runtime: Runtime) -> dict[str, str]:
    """What /version answers."""
    return {
        "version": server.__version__,
        "base": base_name,
        "dtype": str(runtime.dtype).removeprefix("torch."),
        "numerics": runtime.engine.config.numerics,
        "device": str(runtime.device),
        "torch": torch.__version__,
    }


def _open_base(settings: Settings, report: Report) -> Checkpoint:
    if settings.base_model != DEMO:
        return open_checkpoint(settings.base_model)
    return open_checkpoint(str(ensure_demo_base(settings.data_dir, report)))


def _base_name(settings: Settings, checkpoint: Checkpoint) -> str:
    """The served name: as told, else the hub's name, or the last part of a path."""
    if settings.served_model_name is not None:
        return settings.served_model_name
    if settings.base_model == DEMO:
        return DEMO_NAME
    is_path = Path(checkpoint.name).expanduser().is_dir()
    return checkpoint.directory.resolve().name if is_path else checkpoint.name


def _handle_errors(app: FastAPI) -> None:
    for error_type in TABLE:
        app.add_exception_handler(error_type, show_known)
    app.add_exception_handler(RequestValidationError, show_unreadable)
    app.add_exception_handler(HTTPException, show_http_error)


def _wrap(app: FastAPI, settings: Settings, services: Services) -> None:
    """The last one added is the first one passed."""

    limits = {
        UPLOAD_ROUTE: settings.max_upload_bytes + FORM_OVERHEAD,
        DATASET_ROUTE: settings.max_dataset_bytes + FORM_OVERHEAD,
    }

    def body_limit(path: str) -> int:
        return limits.get(path, settings.max_request_bytes)

    app.add_middleware(AnswerDefects)
    app.add_middleware(BodyLimit, limit_of=body_limit)
    if settings.api_key is not None:
        app.add_middleware(ApiKey, key=settings.api_key.get_secret_value())
    app.add_middleware(CountAnswers, count=services.metrics.answered)
    app.add_middleware(RequestId)
