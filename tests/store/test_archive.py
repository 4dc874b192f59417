"""Archives of PEFT directories: two members as plain bytes, and nothing else ever."""

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from adapters_store.errors import AdapterRefused, AdapterTooLarge
from adapters_store.importers.archive import (
    HARMLESS_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    sniff,
    unpack,
)
from adapters_store.validation import Limits

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MEMBERS = {CONFIG: b"{}", TENSORS: b"tensors" * 40}
LIMITS = Limits(max_file_bytes=1 << 20, max_nnz=1)
Pack = Callable[[Path, Mapping[str, bytes]], Path]


def pack_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pack_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


PACKS: dict[str, Pack] = {"zip": pack_zip, "tar": pack_tar}
both = pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)


def _unpacked(path: Path, limits: Limits = LIMITS) -> dict[str, bytes]:
    into = path.parent / "into"
    into.mkdir()
    assert unpack(path, into, limits) == into
    assert set(path.parent.iterdir()) == {path, into}
    return {found.name: found.read_bytes() for found in into.iterdir()}


def _refused(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(AdapterRefused) as caught:
        _unpacked(path, limits)
    return str(caught.value)


@both
@pytest.mark.parametrize("folder", ["", "peft/", "./"])
def test_directory_is_found_at_the_root_or_in_its_folder(
    tmp_path: Path, pack: Pack, folder: str
) -> None:
    others = {"README.md": b"# hi", "optimizer.pt": b"pickle", "checkpoint-1/x/y": b"deep"}
    members = {folder + name: content for name, content in (MEMBERS | others).items()}
    assert _unpacked(pack(tmp_path / "a", members)) == MEMBERS


@both
def test_members_outside_the_archive_are_never_written(tmp_path: Path, pack: Pack) -> None:
    hostile = {f"../{CONFIG}": b"x", f"/tmp/{TENSORS}": b"x", f"../../{TENSORS}": b"x"}
    message = _refused(pack(tmp_path / "a", hostile))
    assert "archive: adapter_config.json is missing" in message
    assert not (tmp_path / CONFIG).exists()


WRONG: dict[str, tuple[Mapping[str, bytes], str]] = {
    "neither": ({"x": b""}, f"archive: {CONFIG} is missing; archive: {TENSORS} is missing"),
    "without config": ({TENSORS: b""}, f"archive: {CONFIG} is missing"),
    "without tensors": ({CONFIG: b""}, f"archive: {TENSORS} is missing"),
    "pickle": (
        {CONFIG: b"", "adapter_model.bin": b"x"},
        "archive: 'adapter_model.bin' is a pickle: never read",
    ),
    "too deep": ({f"a/b/{CONFIG}": b"", f"a/b/{TENSORS}": b""}, f"archive: {CONFIG} is missing"),
    "two folders": ({f"a/{CONFIG}": b"", f"b/{TENSORS}": b""}, "lie in different folders"),
    "two adapters": (
        {f"a/{CONFIG}": b"", f"a/{TENSORS}": b"", f"b/{CONFIG}": b""},
        f"archive: {CONFIG} is there twice",
    ),
}


@both
@pytest.mark.parametrize("case", WRONG)
def test_archive_without_one_peft_directory_is_refused(
    tmp_path: Path, pack: Pack, case: str
) -> None:
    members, expected = WRONG[case]
    assert expected in _refused(pack(tmp_path / "a", members))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        path = tmp_path / f"tar{kind.decode()}"
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo(CONFIG)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(AdapterRefused, match="not a regular file"):
            unpack(path, tmp_path, LIMITS)
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo(CONFIG)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(AdapterRefused, match="not a regular file"):
        unpack(path, tmp_path, LIMITS)


def test_sparse_tar_member_is_refused(tmp_path: Path) -> None:
    """Its holes would come out as bytes that were never in the archive, nor counted."""
    with tarfile.open(tmp_path / "a", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(TENSORS)
        info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info)
    assert "not a regular file" in _refused(tmp_path / "a")


@both
def test_uncompressed_bytes_are_counted(tmp_path: Path, pack: Pack) -> None:
    bomb = pack(tmp_path / "a", {CONFIG: b"", TENSORS: bytes(LIMITS.max_file_bytes * 4)})
    assert bomb.stat().st_size < LIMITS.max_file_bytes // 100
    with pytest.raises(AdapterTooLarge) as caught:
        _unpacked(bomb)
    assert (caught.value.what, caught.value.limit) == ("uncompressed bytes", 1 << 20)
    written = sum(path.stat().st_size for path in (tmp_path / "into").iterdir())
    assert written <= LIMITS.max_file_bytes


def test_exactly_the_limit_of_uncompressed_bytes_passes(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a", MEMBERS)
    total = sum(map(len, MEMBERS.values()))
    assert _unpacked(path, Limits(total, 1)) == MEMBERS
    with pytest.raises(AdapterTooLarge):
        unpack(path, tmp_path / "into", Limits(total - 1, 1))


def test_bytes_of_members_that_are_passed_over_count_too(tmp_path: Path) -> None:
    """A tar stream is unpacked to get past them."""
    members = {"README.md": bytes(LIMITS.max_file_bytes + 1), **MEMBERS}
    assert "uncompressed bytes" in _refused(pack_tar(tmp_path / "a", members))


def test_zip_that_understates_its_sizes_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a", MEMBERS)
    size = len(MEMBERS[TENSORS]).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, b"\1\0\0\0"))
    assert "archive: damaged" in _refused(path)


def test_zip_of_countless_members_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    members = {f"{i}": b"" for i in range(MAX_MEMBERS + 1)} | MEMBERS
    assert "archive members" in _refused(pack_zip(tmp_path / "a", members))


def test_nameless_zip_member_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a", {"nameless": b"", **MEMBERS})
    path.write_bytes(path.read_bytes().replace(b"nameless", bytes(8)))
    assert "archive: damaged or not supported" in _refused(path)


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack_zip(tmp_path / "a", MEMBERS)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "archive: damaged or not supported" in _refused(path)


@both
def test_archive_truncated_anywhere_is_refused(tmp_path: Path, pack: Pack) -> None:
    tensors = random.Random(1).randbytes(500)
    path = pack(tmp_path / "a", {CONFIG: b"{}", TENSORS: tensors})
    content = path.read_bytes()
    (tmp_path / "into").mkdir()
    for length in range(4, len(content) - 20, 7):
        path.write_bytes(content[:length])
        with pytest.raises(AdapterRefused):
            unpack(path, tmp_path / "into", LIMITS)


@both
def test_damaged_archive_is_refused_or_harmless(tmp_path: Path, pack: Pack) -> None:
    path = pack(tmp_path / "a", MEMBERS)
    content = path.read_bytes()
    (tmp_path / "into").mkdir()
    source = random.Random(2)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[source.randrange(4, len(content))] = source.randrange(256)
        path.write_bytes(damaged)
        try:
            unpack(path, tmp_path / "into", LIMITS)
        except AdapterRefused:
            continue


def test_damaged_tar_inside_whole_gzip_is_refused_or_harmless(tmp_path: Path) -> None:
    content = gzip.decompress(pack_tar(tmp_path / "a", MEMBERS).read_bytes())
    (tmp_path / "into").mkdir()
    source = random.Random(3)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[source.randrange(0, 1536)] = source.randrange(256)
        (tmp_path / "a").write_bytes(gzip.compress(damaged, 1))
        try:
            unpack(tmp_path / "a", tmp_path / "into", LIMITS)
        except AdapterRefused:
            continue


def test_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert sniff(tmp_path / "a.zip") == "safetensors"
    assert sniff(pack_zip(tmp_path / "a.safetensors", MEMBERS)) == "zip"
    assert sniff(pack_tar(tmp_path / "a.bin", MEMBERS)) == "tar.gz"


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04pickle", b"\xff" * 8 + b"{}", b"BZh9"])
def test_other_files_are_refused_with_what_is_accepted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(AdapterRefused, match=r"safetensors file, or a \.zip or \.tar\.gz"):
        sniff(tmp_path / "a")


@both
def test_archive_that_unpacks_to_many_times_its_size_is_refused(tmp_path: Path, pack: Pack) -> None:
    """However much the limit on files would allow."""
    generous = Limits(max_file_bytes=1 << 30, max_nnz=1)
    members = {CONFIG: b"", TENSORS: bytes(HARMLESS_BYTES + 1)}
    bomb = pack(tmp_path / "a", members)
    assert bomb.stat().st_size * MAX_RATIO < HARMLESS_BYTES
    assert f"more than the limit of {HARMLESS_BYTES}" in _refused(bomb, generous)
