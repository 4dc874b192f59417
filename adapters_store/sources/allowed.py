"""The operator's list: which source a client's path belongs to, and what is fetched from there."""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters_store.errors import SourceNotFound
from adapters_store.importers.archive import CONFIG, TENSORS
from adapters_store.sources import bucket, directory, hub
from adapters_store.sources.source import Source, joined

FILE_SUFFIXES = (".safetensors", ".zip", ".tar.gz", ".tgz")  # everything else is a PEFT directory
SIGNATURE_SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter as an upload would have brought it, and the signature that lay beside it."""

    path: Path
    signature: str | None


class AdapterSources:
    """Where adapters may be loaded from; without an entry, from nowhere."""

    def __init__(self, sources: Sequence[Source], *, are_signed: bool) -> None:
        self._sources = tuple(sources)
        self._are_signed = are_signed

    @classmethod
    def parse(
        cls, entries: Iterable[str], *, hub_file_hosts: Sequence[str] = (), are_signed: bool = False
    ) -> "AdapterSources":
        """From `dir:/path`, `s3://bucket/prefix` and `hub:org/name@revision`.

        With `are_signed` a signature is looked for beside each adapter. ValueError names the entry
        that cannot be used.
        """
        kinds: dict[str, Callable[[str], Source]] = {
            directory.SCHEME: lambda e: directory.DirectorySource(e.removeprefix(directory.SCHEME)),
            bucket.SCHEME: bucket.BucketSource,
            hub.SCHEME: lambda e: hub.HubSource(e, hub_file_hosts),
        }
        return cls([_parsed(entry, kinds) for entry in entries], are_signed=are_signed)

    def fetch(self, asked: str, into: Path, max_bytes: int) -> Fetched:
        """Copy what a client asked for into the empty directory `into`.

        `asked` is a file, or a directory that PEFT saved, of which two files are read. Raises
        SourceNotFound, whether it is not there or not allowed; AdapterTooLarge where a file has
        more than `max_bytes`; SourceUnavailable.
        """
        upload = into / "upload"
        for source in self._sources:
            path = source.locate(asked)
            if path is None:
                continue
            is_file = path.endswith(FILE_SUFFIXES)
            copy = _copy_file if is_file else _copy_pair
            if copy(source, path, upload, max_bytes):
                main = path if is_file else joined(path, TENSORS)
                return Fetched(upload, self._signature(source, main, into))
        raise SourceNotFound(asked)

    def _signature(self, source: Source, path: str, into: Path) -> str | None:
        """The text of the file beside `path`, if signatures count and there is one."""
        file = into / "signature"
        beside = f"{path}{SIGNATURE_SUFFIX}"
        if not self._are_signed or not source.copy(beside, file, MAX_SIGNATURE_BYTES):
            return None
        return file.read_bytes().decode(errors="replace")


NO_SOURCES = AdapterSources((), are_signed=False)


def _parsed(entry: str, kinds: dict[str, Callable[[str], Source]]) -> Source:
    for scheme, make in kinds.items():
        if entry.startswith(scheme):
            return make(entry)
    raise ValueError(f"{entry!r} begins with none of {', '.join(kinds)}")


def _copy_file(source: Source, path: str, upload: Path, max_bytes: int) -> bool:
    return source.copy(path, upload, max_bytes)


def _copy_pair(source: Source, path: str, upload: Path, max_bytes: int) -> bool:
    """The two files of a PEFT directory as a zip that is not compressed; False if one is absent."""
    for name in (CONFIG, TENSORS):
        if not source.copy(joined(path, name), upload.with_name(name), max_bytes):
            return False
    with zipfile.ZipFile(upload, "w") as archive:
        for name in (CONFIG, TENSORS):
            archive.write(upload.with_name(name), name)
            upload.with_name(name).unlink()
    return True
