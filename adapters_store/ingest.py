"""The one door to stored adapters: from an uploaded file to a published version, and back.

Owns the order of things: everything is checked before anything is written, and the bytes are safe
before a name points at them. Knows nothing of HTTP.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adapters_store import files
from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.blobs import BlobStore
from adapters_store.each import Each, in_turn
from adapters_store.effect import BaseWeights, Effect, effect_of
from adapters_store.errors import AdapterRefused, BlobCorrupt
from adapters_store.importers.peft_source import Parts
from adapters_store.incoming import Incoming
from adapters_store.merging.cache import BoundedCache
from adapters_store.merging.reader import Digests, FileReader, Head
from adapters_store.quarantine import Quarantine
from adapters_store.registry import (
    AdapterDraft,
    AdapterRecord,
    Publication,
    Registry,
)
from adapters_store.registry.labels import SERVER_KEYS
from adapters_store.remote_blobs import open_blobs
from adapters_store.signatures import SIGNER_KEY, TrustedKeys
from adapters_store.single_flight import SingleFlight
from adapters_store.validation import Limits, check

CACHE_BYTES = 10 << 30  # of blobs that are kept elsewhere
HEADS_KEPT = 1024  # of files that merges read, some 100 KiB each
EFFECTS_KEPT = 256  # reports, a few KiB each
NO_FACTS: Mapping[str, str] = {}
TRUST_NOBODY = TrustedKeys({})


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The version that holds an upload, what it holds, and whether the version is new."""

    record: AdapterRecord
    adapter: SparseAdapter
    created: bool


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """The versions removed, those of them whose content no other version has, their bytes."""

    records: tuple[AdapterRecord, ...]
    unused: tuple[AdapterRecord, ...]  # one for each digest
    bytes_freed: int


class AdapterStore:
    """Adapters for one base. Safe for many threads, and for many processes over the same store."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        quarantine: Quarantine,
        base: BaseIdentity,
        parts: Parts,
        limits: Limits,
        keys: TrustedKeys,
        base_weights: BaseWeights | None,
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._quarantine = quarantine
        self._base = base
        self._parts = parts
        self._limits = limits
        self._incoming = Incoming(base, parts, limits, quarantine)
        self._keys = keys
        self._base_weights = base_weights
        self._heads: BoundedCache[Head] = BoundedCache(HEADS_KEPT, lambda head: 1)
        self._effect_of_stored = SingleFlight(self._measure_stored, EFFECTS_KEPT)
        quarantine.sweep()

    @classmethod
    def open(
        cls,
        directory: Path,
        base: BaseIdentity,
        parts: Parts,
        limits: Limits,
        *,
        registry_url: str | None = None,
        blob_url: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        keys: TrustedKeys = TRUST_NOBODY,
        base_weights: BaseWeights | None = None,
    ) -> "AdapterStore":
        """The store in `directory`, made if it is not there: `registry.sqlite` and `blobs/`.

        With a `registry_url` the registry is there; with a `blob_url` the files are, and `blobs/`
        is a cache. Raises RegistryUnavailable, BlobsUnavailable.
        """
        quarantine = Quarantine(directory / "quarantine")
        blobs = open_blobs(blob_url, directory / "blobs", quarantine, cache_bytes)
        default = f"sqlite:///{directory.absolute() / 'registry.sqlite'}"
        registry = Registry(registry_url or default)
        return cls(registry, blobs, quarantine, base, parts, limits, keys, base_weights)

    @property
    def max_file_bytes(self) -> int:
        """The largest upload."""
        return self._limits.max_file_bytes

    def quarantine(self) -> AbstractContextManager[Path]:
        """A private directory for an upload that is still to be ingested; removed afterwards."""
        return self._quarantine.directory()

    @property
    def base(self) -> BaseIdentity:
        """The base that every adapter to be published must fit."""
        return self._base

    @property
    def parts(self) -> Parts:
        """The split layers that the base's fused ones are made of, as rows."""
        return self._parts

    @property
    def registry(self) -> Registry:
        """Names, versions and aliases, to ask and to change."""
        return self._registry

    def ingest(
        self,
        path: Path,
        name: str,
        metadata: Mapping[str, Any],
        *,
        signature: str | None = None,
        dry_run: bool = False,
    ) -> IngestResult:
        """Publish the upload at `path` as the next version of `name`.

        The same content under the same name answers the version that exists. With `dry_run`
        nothing is written, and the record is the one that publishing would make now. Raises
        InvalidName, NameConflict, AdapterTooLarge, AdapterRefused, SignatureRefused.
        """
        self._incoming.check_request(name, metadata)
        adapter = self._incoming.read(path)
        signer = self._keys.signer(adapter.digest, signature)
        if signer is not None:
            metadata = {**metadata, SIGNER_KEY: signer}
        publish = self._preview if dry_run else self._publish
        publication = publish(adapter, name, metadata)
        return IngestResult(publication.record, adapter, publication.created)

    def publish(
        self,
        adapter: SparseAdapter,
        name: str,
        metadata: Mapping[str, Any],
        *,
        facts: Mapping[str, str] = NO_FACTS,
    ) -> IngestResult:
        """Publish what this server has made as the next version of `name`, as `ingest` does.

        `facts` go into the record's metadata under keys that nobody else may write.
        """
        self.check_request(name, metadata)
        assert facts.keys() <= SERVER_KEYS, facts
        check(adapter, self._base, self._limits)
        publication = self._publish(adapter, name, {**metadata, **facts})
        return IngestResult(publication.record, adapter, publication.created)

    def resolve(self, reference: str, key: str | None = None) -> AdapterRecord:
        """The version that `reference` names, for whoever has the sticky `key`: see Registry."""
        return self._registry.resolve(reference, key)

    def load(self, digest: str, each: Each = in_turn) -> SparseAdapter:
        """The adapter, checked again: AdapterNotFound, BlobCorrupt, AdapterRefused.

        `each` delta is read and checked by itself.
        """
        adapter = self._blobs.load(digest, each)
        check(adapter, self._base, self._limits, each)
        return adapter

    def open_reader(self, digest: str, known: Digests | None = None) -> FileReader:
        """The adapter, to be read layer by layer and closed; AdapterNotFound, BlobCorrupt."""
        file = self._blobs.open(digest)
        try:
            reader = FileReader(file, known, self._heads.get(digest))
        except AdapterRefused as error:
            file.close()
            raise BlobCorrupt(digest, f"none: {error}") from error
        if reader.digest != digest:
            reader.close()
            raise BlobCorrupt(digest, reader.digest)
        self._heads.put(digest, reader.head)
        return reader

    def delete(self, reference: str, *, force: bool = False) -> DeleteResult:
        """Remove what `reference` names, or all versions of a bare name; blobs go with them.

        AdapterInUse while aliases point there; with `force` those aliases go too.
        """
        records = self._registry.delete(reference, force=force)
        by_digest = {record.digest: record for record in records}
        freed = {digest: self._delete_unused(digest) for digest in by_digest}
        unused = tuple(by_digest[digest] for digest, bytes_ in freed.items() if bytes_ is not None)
        return DeleteResult(tuple(records), unused, sum(filter(None, freed.values())))

    def measure(self, adapter: SparseAdapter) -> Effect:
        """What `adapter` changes, compared with this base, which it is for."""
        return effect_of(adapter, self._parts, self._base_weights)

    def effect(self, digest: str) -> Effect:
        """What a stored adapter changes, compared with this base where it is the one it is for.

        Measured when first asked for. AdapterNotFound, BlobCorrupt.
        """
        return self._effect_of_stored(digest)

    def open_blob(self, digest: str) -> BinaryIO:
        """The file of this digest, for sending and closing it; AdapterNotFound if it is gone."""
        return self._blobs.open(digest)

    def close(self) -> None:
        self._registry.close()

    def check_request(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Raise unless an adapter may be published as `name` with `metadata`."""
        self._incoming.check_request(name, metadata)

    def _measure_stored(self, digest: str) -> Effect:
        adapter = self._blobs.load(digest)
        known = {name: layer.digest for name, layer in self._base.layers.items()}
        other = [layer for layer, of in adapter.base.items() if known.get(layer) != of]
        return effect_of(adapter, self._parts, self._base_weights, other)

    def _publish(
        self, adapter: SparseAdapter, name: str, metadata: Mapping[str, Any]
    ) -> Publication:
        with self._registry.guard(adapter.digest) as guarded:
            num_bytes = self._blobs.put(adapter)
            return guarded.publish(AdapterDraft.of(adapter, name, metadata, num_bytes))

    def _delete_unused(self, digest: str) -> int | None:
        """Remove the blob if no version needs it any more; bytes freed, None where one does."""
        with self._registry.guard(digest) as guarded:
            return None if guarded.is_used() else self._blobs.delete(digest)

    def _preview(
        self, adapter: SparseAdapter, name: str, metadata: Mapping[str, Any]
    ) -> Publication:
        draft = AdapterDraft.of(adapter, name, metadata, files.num_bytes(adapter))
        return self._registry.preview(draft)
