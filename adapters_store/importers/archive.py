"""What an uploaded file is, by its first bytes, and a PEFT directory out of an archive.

Nothing is ever written to a path that an archive names: the two members that matter are copied,
as plain bytes, to two fixed names. Uncompressed bytes are counted, never believed.
"""

import errno
import gzip
import mmap
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol, cast

from adapters_store.errors import AdapterRefused, AdapterTooLarge
from adapters_store.validation import Limits

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
CHUNK_BYTES = 1 << 20
MAX_MEMBERS = 1000
# Trained weights hardly shrink: what unpacks to more times its size is a bomb. Small ones may.
MAX_RATIO = 100
HARMLESS_BYTES = 1 << 20
ACCEPTED = "an intarsia-adapter/1 .safetensors file, or a .zip or .tar.gz of a PEFT directory"

Upload = Literal["safetensors", "zip", "tar.gz"]


def sniff(path: Path) -> Upload:
    """What `path` holds, whatever it is called; AdapterRefused names what is accepted."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\3\4"):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "tar.gz"
    header_bytes = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and header_bytes <= path.stat().st_size - 8:
        return "safetensors"
    raise AdapterRefused([f"file: starts with {start!r}; accepted is {ACCEPTED}"])


def unpack(path: Path, into: Path, limits: Limits) -> Path:
    """`into`, then holding `adapter_config.json` and `adapter_model.safetensors` from an archive.

    They are found at the archive's root or in one folder. AdapterRefused if they are not there,
    are no regular files, or the archive is damaged; AdapterTooLarge when it unpacks to more than
    `limits.max_file_bytes`, or to more than MAX_RATIO times its size.
    """
    extract = _extract_zip if sniff(path) == "zip" else _extract_tar
    with _damage_refused():
        bound = max(MAX_RATIO * path.stat().st_size, HARMLESS_BYTES)
        found = extract(path, _Extraction(into, min(limits.max_file_bytes, bound)))
    found.check()
    return into


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Extraction:
    """The two members as they are found, and what was passed over."""

    def __init__(self, into: Path, max_bytes: int) -> None:
        self._into = into
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._folders: dict[str, PurePosixPath] = {}
        self._pickles: list[str] = []

    def is_wanted(self, member: str, *, is_regular: bool) -> bool:
        """Whether to copy `member`; remembers pickles; refuses what stands in a member's place."""
        path = PurePosixPath(member)
        if path.suffix in PICKLE_SUFFIXES:
            self._pickles.append(member)
        if path.name not in (CONFIG, TENSORS) or len(path.parts) > 2 or ".." in path.parts:
            return False
        if path.name in self._folders:
            raise AdapterRefused([f"archive: {path.name} is there twice"])
        if not is_regular:
            raise AdapterRefused([f"archive: {member!r} is not a regular file"])
        self._folders[path.name] = path.parent
        return True

    def copy(self, member: str, source: Readable) -> None:
        """Write the member's bytes under its plain name."""
        with (self._into / PurePosixPath(member).name).open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)

    def count(self, num_bytes: int) -> None:
        """AdapterTooLarge as soon as more came out of the archive than may."""
        self._num_bytes += num_bytes
        if self._num_bytes > self._max_bytes:
            raise AdapterTooLarge("uncompressed bytes", self._num_bytes, self._max_bytes)

    def check(self) -> None:
        """Both members were found, in the same folder."""
        missing = [name for name in (CONFIG, TENSORS) if name not in self._folders]
        reasons = [f"archive: {name} is missing" for name in missing]
        if TENSORS in missing:
            reasons += [f"archive: {name!r} is a pickle: never read" for name in self._pickles[:20]]
        if len({*self._folders.values()}) > 1:
            reasons.append(f"archive: {CONFIG} and {TENSORS} lie in different folders")
        if reasons:
            raise AdapterRefused(reasons)


def _extract_zip(path: Path, extraction: _Extraction) -> _Extraction:
    _check_member_count(path)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_regular = kind in (0, stat.S_IFREG) and not info.is_dir()
            if extraction.is_wanted(info.filename, is_regular=is_regular):
                with archive.open(info) as source:
                    extraction.copy(info.filename, _Counted(source, extraction.count))
    return extraction


def _check_member_count(path: Path) -> None:
    """Before `zipfile` makes an object of each: a member has at least one directory signature."""
    count = position = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while (position := content.find(b"PK\1\2", position) + 1) > 0:
            count += 1
            if count > MAX_MEMBERS:
                raise AdapterTooLarge("archive members", count, MAX_MEMBERS)


def _extract_tar(path: Path, extraction: _Extraction) -> _Extraction:
    with gzip.open(path) as content:
        stream = cast(IO[bytes], _Counted(content, extraction.count))  # only `read` is called
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                # A sparse member's holes are bytes that no stream delivers and none counts.
                is_regular = info.isreg() and not info.issparse()
                if extraction.is_wanted(info.name, is_regular=is_regular):
                    source = archive.extractfile(info)
                    assert source is not None, "a regular member has content"
                    extraction.copy(info.name, source)
    return extraction


class _Counted:
    """A reader that tells `count` how many bytes came out of it."""

    def __init__(self, source: Readable, count: Callable[[int], None]) -> None:
        self._source, self._count = source, count

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._count(len(data))
        return data


@contextmanager
def _damage_refused() -> Iterator[None]:
    """What the archive readers raise over damaged input, as a refusal."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        ValueError,
        IndexError,  # a member without a name
        NotImplementedError,  # a compression method that is not supported
        RuntimeError,  # an encrypted member
    ) as error:
        raise AdapterRefused([f"archive: damaged or not supported: {error}"]) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile seeks to where the archive says, even below 0
            raise
        raise AdapterRefused([f"archive: damaged: {error}"]) from error
