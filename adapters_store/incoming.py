"""From an upload's bytes to an adapter that this base can use, and names that may be given to it.

Decides everything that can be decided without writing. Knows nothing of where adapters are kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store import files
from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.errors import AdapterRefused, AdapterTooLarge, NameConflict
from adapters_store.importers.archive import TENSORS, sniff, unpack
from adapters_store.importers.peft import read_peft
from adapters_store.importers.peft_source import Parts
from adapters_store.names import check_name
from adapters_store.quarantine import Quarantine
from adapters_store.registry.labels import SERVER_KEYS, check_metadata
from adapters_store.validation import Limits, check


@dataclass(frozen=True, slots=True)
class Incoming:
    """What an upload must fit."""

    base: BaseIdentity
    parts: Parts
    limits: Limits
    quarantine: Quarantine

    def read(self, path: Path) -> SparseAdapter:
        """The upload at `path`, checked wholly: AdapterTooLarge, AdapterRefused."""
        num_bytes = path.stat().st_size
        if num_bytes > self.limits.max_file_bytes:
            raise AdapterTooLarge("bytes", num_bytes, self.limits.max_file_bytes)
        adapter = self._read_own(path) if sniff(path) == "safetensors" else self._import(path)
        check(adapter, self.base, self.limits)
        _check_reserved("notes", adapter.notes)
        return adapter

    def check_request(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Raise unless an adapter may be published as `name` with `metadata`: InvalidName,
        NameConflict, AdapterRefused, InvalidMetadata."""
        if name == self.base.name:
            raise NameConflict(name, "the base model")
        check_name(name)
        _check_reserved("metadata", metadata)
        try:
            json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise AdapterRefused([f"metadata: not JSON: {error}"]) from error
        check_metadata(metadata)

    def _read_own(self, path: Path) -> SparseAdapter:
        files.check_frame(path, self.limits)
        return files.read(path)

    def _import(self, path: Path) -> SparseAdapter:
        with self.quarantine.directory() as directory:
            unpacked = unpack(path, directory, self.limits)
            files.check_frame(unpacked / TENSORS, self.limits)
            return read_peft(unpacked, self.base, self.parts)


def _check_reserved(what: str, given: Mapping[str, Any]) -> None:
    reserved = [f"{what}: {key!r} is for the server to say" for key in given if key in SERVER_KEYS]
    if reserved:
        raise AdapterRefused(reserved)
