"""The composition root: settings in, application out. With `storage.py`, where things are built."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

import server
from server.adapters.resident import ResidentAdapters
from server.api import adapters, aliases, chat, completions, health, models, stats, uploads
from server.api.failures import show_http_error, show_known, show_unreadable
from server.api.middleware import AnswerDefects, ApiKey, BodyLimit, CountAnswers, RequestId
from server.api.services import Services
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.loop import EngineLoop
from server.engine.runner import ModelRunner
from server.errors import TABLE
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels
from server.metrics import EngineCollector, RequestMetrics, render
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.demo_base import NAME as DEMO_NAME
from server.model.demo_base import ensure_demo_base
from server.model.kv_cache import allocate, bytes_per_page
from server.model.load import load_model
from server.model.text import TextCodec
from server.settings import DEMO, Settings, SettingsConflict
from server.storage import Report, open_store

UPLOAD_ROUTE = "/v1/adapters"
FORM_OVERHEAD = 1 << 20  # bytes of an upload's form around the file
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

logger = logging.getLogger(__name__)


def create_app(settings: Settings, report: Report = logger.info) -> FastAPI:
    """The whole server for `settings`; `report` hears what start-up is doing.

    Raises SettingsConflict or ModelError where it cannot be served as asked.
    """
    services = build_services(settings, report)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services.engine.start()
        yield
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
    for part in (completions, chat, models, uploads, stats, aliases, adapters, health):
        app.include_router(part.router)
    _handle_errors(app)
    _wrap(app, settings, services)
    return app


def build_services(settings: Settings, report: Report) -> Services:
    """Everything behind the routes."""
    device = _device(settings)
    dtype = _dtype(settings, device)
    checkpoint = _open_base(settings, report)
    base_name = _base_name(settings, checkpoint)
    store = open_store(settings, checkpoint, base_name, report)
    kernels = ReferenceKernels(device)
    residents = ResidentAdapters(store.load, kernels, settings.max_adapter_bytes_device)
    config = _engine_config(settings, checkpoint, dtype)
    engine = _build_engine(config, checkpoint, kernels, residents, dtype, device, report)
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine.stats, residents, base_name, config.max_num_seqs))
    return Services(
        base_name=base_name,
        codec=TextCodec(checkpoint.tokenizer),
        vocab_size=checkpoint.config.vocab_size,
        sampling_defaults=checkpoint.sampling_defaults,
        max_model_len=config.max_model_len,
        max_choices=config.max_queued_requests,
        started=int(time.time()),
        store=store,
        adapters=residents,
        engine=EngineLoop(engine),
        metrics=RequestMetrics(registry),
        render_metrics=lambda: render(registry),
        description={
            "version": server.__version__,
            "base": base_name,
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(device),
            "torch": torch.__version__,
        },
    )


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


def _engine_config(settings: Settings, checkpoint: Checkpoint, dtype: torch.dtype) -> EngineConfig:
    model = checkpoint.config
    page_bytes = bytes_per_page(model, settings.page_size, dtype)
    num_pages = settings.kv_cache_bytes // page_bytes
    fits = min(num_pages * settings.page_size, model.max_position_embeddings)
    max_model_len = settings.max_model_len or fits
    if fits == 0:
        raise SettingsConflict(
            "kv_cache_bytes", settings.kv_cache_bytes, f"a page has {page_bytes}"
        )
    if max_model_len > fits:
        raise SettingsConflict("max_model_len", max_model_len, f"model and KV pages allow {fits}")
    name = str(dtype).removeprefix("torch.")
    return EngineConfig(
        max_model_len=max_model_len,
        num_pages=num_pages,
        page_size=settings.page_size,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queued_requests=settings.max_queued_requests,
        rope_boundary=model.rope.original_max_positions,
        numerics=f"dtype={name};kv={name};quantization=none;mode=batched;kernels=reference/1",
    )


def _build_engine(
    config: EngineConfig,
    checkpoint: Checkpoint,
    kernels: Kernels,
    residents: ResidentAdapters,
    dtype: torch.dtype,
    device: torch.device,
    report: Report,
) -> Engine:
    report(f"loading the weights of {checkpoint.name} as {dtype} on {device}")
    model = load_model(checkpoint, dtype, device, kernels)
    cache = allocate(checkpoint.config, config.num_pages, config.page_size, dtype, device)
    eos = checkpoint.eos_token_ids
    runner = ModelRunner(model, cache, config.page_size, residents, eos)
    return Engine(config, runner, TextCodec(checkpoint.tokenizer).decode, eos)


def _device(settings: Settings) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise SettingsConflict("device", "cuda", "torch sees no CUDA device")
    return torch.device("cuda" if has_cuda and settings.device != "cpu" else "cpu")


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _handle_errors(app: FastAPI) -> None:
    for error_type in TABLE:
        app.add_exception_handler(error_type, show_known)
    app.add_exception_handler(RequestValidationError, show_unreadable)
    app.add_exception_handler(HTTPException, show_http_error)


def _wrap(app: FastAPI, settings: Settings, services: Services) -> None:
    """The last one added is the first one passed."""

    def body_limit(path: str) -> int:
        is_upload = path == UPLOAD_ROUTE
        return (
            settings.max_upload_bytes + FORM_OVERHEAD if is_upload else settings.max_request_bytes
        )

    app.add_middleware(AnswerDefects)
    app.add_middleware(BodyLimit, limit_of=body_limit)
    if settings.api_key is not None:
        app.add_middleware(ApiKey, key=settings.api_key.get_secret_value())
    app.add_middleware(CountAnswers, count=services.metrics.answered)
    app.add_middleware(RequestId)
