"""Downloaded packages as mappings from member name to bytes: wheels, tarballs, .deb, folders.

Nothing is unpacked to disk. Knows nothing of what the members mean.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60


def open_archive(path: Path) -> Mapping[str, bytes]:
    """The regular files of a wheel, tar archive, Debian package or folder, read when asked for."""
    if path.is_dir():
        return Folder(path)
    if zipfile.is_zipfile(path):
        return Wheel(path)
    content = path.read_bytes()
    return tar_members(debian_data(content) if content.startswith(AR_MAGIC) else content)


class Folder(Mapping[str, bytes]):
    """The files right inside a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.name for path in self._path.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Wheel(Mapping[str, bytes]):
    """The members of a zip file; one is decompressed each time that it is asked for."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))

    def __getitem__(self, name: str) -> bytes:
        return self._archive.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.namelist())

    def __len__(self) -> int:
        return len(self._archive.namelist())


class Joined(Mapping[str, bytes]):
    """The members of several archives; of a name that occurs twice, the last one's."""

    def __init__(self, archives: Iterable[Mapping[str, bytes]]) -> None:
        self._where = {name: archive for archive in archives for name in archive}

    def __getitem__(self, name: str) -> bytes:
        return self._where[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def tar_members(content: bytes) -> Mapping[str, bytes]:
    """The regular files of a tar archive, compressed or not, without a leading `./`."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {
            member.name.removeprefix("./"): stream.read()
            for member in archive
            if member.isfile() and (stream := archive.extractfile(member)) is not None
        }


def debian_data(package: bytes) -> bytes:
    """The tar archive `data.tar.*` of a .deb file, which is an `ar` archive."""
    offset = len(AR_MAGIC)
    while offset < len(package):
        header = package[offset : offset + AR_HEADER_BYTES]
        size = int(header[48:58])
        offset += AR_HEADER_BYTES
        if header.startswith(b"data.tar"):
            return package[offset : offset + size]
        offset += size + size % 2
    raise KeyError("data.tar")
