"""What a client's path may reach: what is inside of an allowed directory, and nothing else."""

import os
import zipfile
from pathlib import Path

import pytest

from adapters_store.errors import AdapterTooLarge, SourceNotFound, SourceUnavailable
from adapters_store.sources import NO_SOURCES, AdapterSources

LIMIT = 100
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed directory with a file, a PEFT directory and links, beside what is secret."""
    root = tmp_path / "allowed"
    (root / "team" / "peft").mkdir(parents=True)
    (root / "a.safetensors").write_bytes(b"adapter")
    (root / "a.safetensors.sig").write_text("signed")
    (root / "team" / "peft" / "adapter_config.json").write_bytes(b"{}")
    (root / "team" / "peft" / "adapter_model.safetensors").write_bytes(b"tensors")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "b.safetensors").write_bytes(b"secret")
    (root / "inside.safetensors").symlink_to("a.safetensors")
    (root / "again").symlink_to(root / "team")
    (root / "outside.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.safetensors").symlink_to("loop.safetensors")
    (root / "half").mkdir()
    (root / "half" / "adapter_config.json").write_bytes(b"{}")
    (root / "half" / "adapter_model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (root / "directory.safetensors").mkdir()
    os.mkfifo(root / "pipe.safetensors")
    return root


@pytest.fixture
def into(tmp_path: Path) -> Path:
    directory = tmp_path / "into"
    directory.mkdir()
    return directory


@pytest.fixture
def sources(root: Path) -> AdapterSources:
    return AdapterSources.parse([f"dir:{root}"])


@pytest.mark.parametrize(
    "path", ["dir:a.safetensors", "{root}/a.safetensors", "dir:{root}/a.safetensors"]
)
def test_file_inside_is_fetched(sources: AdapterSources, root: Path, into: Path, path: str) -> None:
    fetched = sources.fetch(path.format(root=root), into, LIMIT)
    assert (fetched.path.read_bytes(), fetched.signature) == (b"adapter", None)


@pytest.mark.parametrize("path", ["dir:inside.safetensors", "dir:again/peft", "{root}/again/peft"])
def test_link_that_stays_inside_is_followed(
    sources: AdapterSources, root: Path, into: Path, path: str
) -> None:
    assert sources.fetch(path.format(root=root), into, LIMIT).path.is_file()


@pytest.mark.parametrize("path", ["dir:team/peft", "{root}/team/peft"])
def test_peft_directory_comes_as_an_archive_of_its_two_files(
    sources: AdapterSources, root: Path, into: Path, path: str
) -> None:
    (root / "team" / "peft" / "pytorch_model.bin").write_bytes(b"a pickle")
    with zipfile.ZipFile(sources.fetch(path.format(root=root), into, LIMIT).path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {"adapter_config.json": b"{}", "adapter_model.safetensors": b"tensors"}


@pytest.mark.parametrize("end", ["", "/"])
def test_allowed_directory_may_be_the_adapter_itself(root: Path, into: Path, end: str) -> None:
    itself = root / "team" / "peft"
    sources = AdapterSources.parse([f"dir:{itself}{end}"])
    assert sources.fetch(f"{itself}{end}", into, LIMIT).path.is_file()


ESCAPES = [
    "",
    "a.safetensors",  # a bare name is one of the registry
    "dir:",
    "dir:../secret.safetensors",
    "dir:team/../../secret.safetensors",
    "dir:./a.safetensors",
    "dir:a.safetensors/",
    "dir:team//peft",
    "dir:~/a.safetensors",
    "dir:a.safetensors\0",
    "dir:a.safetensors\n",
    "dir:team\\peft",
    "dir:.hidden",
    "dir:" + "a/" * 40 + "a.safetensors",
    "dir:" + "a" * 300 + ".safetensors",
    "dir:missing.safetensors",
    "dir:outside.safetensors",
    "dir:up/secret.safetensors",
    "dir:up/allowed/a.safetensors/x",
    "dir:loop.safetensors",
    "dir:half",
    "dir:pipe.safetensors",
    "dir:directory.safetensors",
    "dir:a.safetensors/x.safetensors",
    "dir:team",
    "{root}/../secret.safetensors",
    "{root}-not/b.safetensors",
    "{root}/up/secret.safetensors",
    "{root}//a.safetensors",
    "/etc/passwd",
    "//etc/passwd",
    "file://{root}/a.safetensors",
    "file:{root}/a.safetensors",
    "DIR:a.safetensors",
    "http://127.0.0.1/a.safetensors",
    "s3://bucket/a.safetensors",
    f"hub:org/name@{REVISION}",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_nothing_else_is_found_and_nothing_says_why(
    sources: AdapterSources, root: Path, into: Path, path: str
) -> None:
    with pytest.raises(SourceNotFound, match="is no adapter in the registry"):
        sources.fetch(path.format(root=root), into, LIMIT)
    assert b"secret" not in b"".join(p.read_bytes() for p in into.iterdir())


def test_part_that_becomes_a_link_after_it_was_resolved_is_not_followed(
    sources: AdapterSources,
    root: Path,
    into: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = Path.resolve

    def resolve_then_swap(path: Path, strict: bool = False) -> Path:
        real = resolve(path, strict)
        (root / "a.safetensors").unlink()
        (root / "a.safetensors").symlink_to(root.parent / "secret.safetensors")
        return real

    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    with pytest.raises(SourceNotFound):
        sources.fetch("dir:a.safetensors", into, LIMIT)


def test_without_entries_nothing_is_found(root: Path, into: Path) -> None:
    for path in ("dir:a.safetensors", f"{root}/a.safetensors"):
        with pytest.raises(SourceNotFound):
            NO_SOURCES.fetch(path, into, LIMIT)


def test_first_directory_that_has_it_is_taken(root: Path, into: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    sources = AdapterSources.parse([f"dir:{other}", f"dir:{root}"])
    assert sources.fetch("dir:a.safetensors", into, LIMIT).path.read_bytes() == b"adapter"
    (other / "a.safetensors").write_bytes(b"other")
    assert sources.fetch("dir:a.safetensors", into, LIMIT).path.read_bytes() == b"other"
    assert sources.fetch(f"{root}/a.safetensors", into, LIMIT).path.read_bytes() == b"adapter"


def test_signature_beside_is_read_where_signatures_count(root: Path, into: Path) -> None:
    sources = AdapterSources.parse([f"dir:{root}"], are_signed=True)
    assert sources.fetch("dir:a.safetensors", into, LIMIT).signature == "signed"
    beside = root / "team" / "peft" / "adapter_model.safetensors.sig"
    assert sources.fetch("dir:team/peft", into, LIMIT).signature is None
    beside.write_text("of a directory")
    assert sources.fetch("dir:team/peft", into, LIMIT).signature == "of a directory"
    (root / "a.safetensors.sig").write_bytes(b"x" * 2000)
    with pytest.raises(AdapterTooLarge):
        sources.fetch("dir:a.safetensors", into, LIMIT)


def test_file_over_the_limit_is_not_copied(sources: AdapterSources, root: Path, into: Path) -> None:
    with (root / "a.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(AdapterTooLarge):
        sources.fetch("dir:a.safetensors", into, LIMIT)
    assert list(into.iterdir()) == []


def test_file_that_grows_while_it_is_read_stops_at_the_limit(
    sources: AdapterSources, root: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.stat_result([0o100644, 0, 0, 1, 0, 0, 1, 0, 0, 0])  # one byte, it says
    (root / "a.safetensors").write_bytes(b"x" * (LIMIT + 1))
    monkeypatch.setattr(os, "fstat", lambda _: status)
    with pytest.raises(AdapterTooLarge):
        sources.fetch("dir:a.safetensors", into, LIMIT)


def test_file_that_cannot_be_read_is_the_operators_affair(
    sources: AdapterSources, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError("no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceUnavailable) as caught:
        sources.fetch("dir:a.safetensors", into, LIMIT)
    assert "allowed" not in str(caught.value)
    assert "PermissionError" in caught.value.reason


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "/tmp",
        "dir:",
        "dir:relative",
        "dir:/no/such/directory",
        "file:///tmp",
        "http://host/x",
        "s3://",
        "s3:///prefix",
        "hub:org/name",
        "hub:org/name@main",
        f"hub:name@{REVISION}",
        f"hub:org/name@{REVISION[:-1]}",
        f"hub:org/name@{REVISION.upper()}",
        f"hub:org/../x@{REVISION}",
        f"hub:org/name@{REVISION}\n",
    ],
)
def test_entry_that_allows_nothing_definite_is_refused(entry: str) -> None:
    with pytest.raises(
        ValueError, match=r"no such directory|begins with|no bucket|not of the form"
    ):
        AdapterSources.parse([entry])
