"""The store's part of the composition root: opened as the settings say, `publish_dir` published."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

from adapters_store.canonical import sha256_of
from adapters_store.errors import BlobsUnavailable, RegistryUnavailable, StoreError
from adapters_store.ingest import AdapterStore
from adapters_store.merging.cost import CostLimits
from adapters_store.merging.merger import Merger
from adapters_store.signatures import TrustedKeys
from adapters_store.sources import AdapterSources
from adapters_store.validation import Limits
from server.evaluation.asking import RowReader
from server.evaluation.datasets import DataSets
from server.evaluation.engine_room import EngineRoom
from server.evaluation.evaluations import Evaluations
from server.evaluation.job import KIND, EvaluationJobs
from server.evaluation.plan import Plan
from server.evaluation.store import EvaluationStore
from server.jobs import merges
from server.jobs.slots import WorkerSlots
from server.jobs.store import JobStore
from server.jobs.worker import JobWorker
from server.metrics import EvaluationCounts
from server.model.checkpoint import Checkpoint
from server.model.identity import base_identity
from server.model.stored_rows import StoredRows
from server.settings import Settings, SettingsConflict

Report = Callable[[str], None]  # hears what start-up is doing
logger = logging.getLogger(__name__)


def open_store(
    settings: Settings, checkpoint: Checkpoint, base_name: str, report: Report
) -> AdapterStore:
    """The store of this base's adapters, `publish_dir` published. Raises SettingsConflict."""
    report("reading the base's identity")
    directory = settings.data_dir / "adapters"
    directory.mkdir(parents=True, exist_ok=True)
    identity = base_identity(base_name, checkpoint, settings.data_dir / "base-identity.json")
    limits = Limits(settings.max_upload_bytes, settings.max_adapter_nnz)
    try:
        store = AdapterStore.open(
            directory,
            identity,
            checkpoint.config.split_parts(),
            limits,
            registry_url=_registry_url(settings),
            blob_url=settings.blob_url,
            cache_bytes=settings.max_blob_cache_bytes,
            keys=_trusted_keys(settings),
            base_weights=StoredRows(checkpoint),
        )
    except RegistryUnavailable as error:
        raise SettingsConflict("registry_url", error.url, error.reason) from error
    except BlobsUnavailable as error:
        raise SettingsConflict("blob_url", error.url, error.reason) from error
    _publish_directory(settings, store, report)
    return store


def open_sources(settings: Settings) -> AdapterSources:
    """Where the operator allows adapters to be loaded from. Raises SettingsConflict."""
    try:
        return AdapterSources.parse(
            _entries(settings.adapter_sources),
            hub_file_hosts=_entries(settings.hub_file_hosts),
            are_signed=bool(settings.trusted_keys),
        )
    except ValueError as error:
        raise SettingsConflict("adapter_sources", settings.adapter_sources, str(error)) from error


def open_merger(settings: Settings, store: AdapterStore) -> Merger:
    """Merges of the store's adapters, within the settings' limits."""
    limits = CostLimits(settings.max_merge_bytes, settings.max_merge_seconds)
    return Merger(store.open_reader, store.base, limits, settings.max_merge_cache_bytes)


def open_jobs(
    settings: Settings, store: AdapterStore, merger: Merger, published: Callable[[str], None]
) -> JobWorker:
    """The worker of this data directory for all kinds of jobs but evaluations.

    `published` hears of every name that a job gave a version to.
    """
    handlers = {merges.KIND: merges.MergeJobs(store, merger, published)}
    return JobWorker(JobStore(store.registry.database), handlers, _slots(settings, "jobs"))


def open_evaluations(
    settings: Settings,
    store: AdapterStore,
    reader: Callable[[Plan], RowReader],
    room: Callable[[], EngineRoom],
    published: Callable[[str], None],
    counts: EvaluationCounts,
) -> Evaluations:
    """Evaluations of this base, with a worker of their own: they take longer than merges."""
    database = store.registry.database
    layers = {name: layer.digest for name, layer in store.base.layers.items()}
    base = {"name": store.base.name, "digest": sha256_of(layers)}
    kept, datasets = EvaluationStore(database), DataSets(database)
    jobs = EvaluationJobs(kept, datasets, reader, room, base, published, counts)
    slots = _slots(settings, "evaluations")
    return Evaluations(
        worker=JobWorker(JobStore(database), {KIND: jobs}, slots, niceness=0),
        store=kept,
        datasets=datasets,
        reader=reader,
        base=base,
        tasks=settings.data_dir / "tasks",
        max_dataset_bytes=settings.max_dataset_bytes,
    )


def _slots(settings: Settings, kind: str) -> WorkerSlots:
    """What keeps workers of one kind apart: those of this folder, and of other machines."""
    folder = settings.data_dir.absolute() / "workers" / kind
    return WorkerSlots(folder, f"{socket.gethostname()}:{folder}")


def _entries(text: str | None) -> list[str]:
    return [entry.strip() for entry in (text or "").split(",") if entry.strip()]


def _registry_url(settings: Settings) -> str | None:
    return settings.registry_url.get_secret_value() if settings.registry_url else None


def _signature_beside(path: Path) -> str | None:
    """The text of `<path>.sig`, if there is one."""
    signature = path.with_name(f"{path.name}.sig")
    return signature.read_text() if signature.is_file() else None


def _trusted_keys(settings: Settings) -> TrustedKeys:
    """The keys in the setting itself, or one to a line of the file that it names."""
    given = settings.trusted_keys or ""
    try:
        texts = Path(given).read_text().split() if Path(given).is_file() else given.split(",")
        return TrustedKeys.parse(text.strip() for text in texts if text.strip())
    except (OSError, ValueError) as error:
        raise SettingsConflict("trusted_keys", given, str(error)) from error


def _publish_directory(settings: Settings, store: AdapterStore, report: Report) -> None:
    """Publish the files of `publish_dir`; one that this base refuses is reported, not served."""
    if settings.publish_dir is None:
        return
    if not settings.publish_dir.is_dir():
        raise SettingsConflict("publish_dir", settings.publish_dir, "there is no such directory")
    for path in sorted(settings.publish_dir.glob("*.safetensors")):
        try:
            result = store.ingest(path, path.stem, {}, signature=_signature_beside(path))
        except StoreError as error:
            logger.warning("%s is not published: %s", path, error)
        else:
            report(
                f"published {result.record.id}"
                if result.created
                else f"{result.record.id} is there"
            )
