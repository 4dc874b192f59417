"""Packages reach the cache whole and checked, or the reason is told."""

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from adapters_store.tasks import fetching
from adapters_store.tasks.apt_config import apt_config, index_files
from adapters_store.tasks.archives import open_archive
from adapters_store.tasks.errors import PackageCorrupt, PackageUnavailable
from adapters_store.tasks.fetching import Cache, answer, digest, run
from adapters_store.tasks.packages import BABEL, DEBIAN_INDEX, Package

CONTENT = b"the content of a package"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKAGE = Package("npm", "thing", "1.0", "thing-1.0.tgz", SHA256)


class Registry:
    """Stands in for npm: leaves `content` and counts how often it is asked."""

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, 0

    def __call__(self, package: Package, scratch: Path) -> Path:
        self.asked += 1
        (scratch / package.file).write_bytes(self.content)
        return scratch / package.file


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(CONTENT)
    monkeypatch.setattr(fetching, "FETCHERS", {"npm": made})
    return made


def test_a_package_is_fetched_once(registry: Registry, tmp_path: Path) -> None:
    for _ in range(2):
        path = Cache(tmp_path / "new").obtain(PACKAGE)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert registry.asked == 1


def test_a_package_with_another_digest_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    registry.content = b"something else"
    with pytest.raises(PackageCorrupt) as caught:
        Cache(tmp_path).obtain(PACKAGE)
    assert caught.value.expected == SHA256
    registry.content = CONTENT
    assert Cache(tmp_path).obtain(PACKAGE) == tmp_path / PACKAGE.file


def test_a_kept_package_that_was_changed_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(b"changed")
    with pytest.raises(PackageCorrupt) as caught:
        Cache(tmp_path).obtain(PACKAGE)
    assert caught.value.file == tmp_path / PACKAGE.file
    assert registry.asked == 0


def test_an_interrupted_fetch_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(package: Package, scratch: Path) -> Path:
        (scratch / package.file).write_bytes(CONTENT[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "FETCHERS", {"npm": interrupted})
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).obtain(PACKAGE)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_a_failed_command_tells_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such version')"]
    with pytest.raises(PackageUnavailable, match="no such version") as caught:
        answer(PACKAGE, command, tmp_path)
    assert (caught.value.name, caught.value.version) == ("thing", "1.0")


def test_a_missing_client_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageUnavailable, match=r"no-such-client.*not installed"):
        answer(PACKAGE, ["no-such-client"], tmp_path)


def test_a_command_that_leaves_no_file_has_failed(tmp_path: Path) -> None:
    with pytest.raises(PackageUnavailable, match=r"no file thing-1\.0\.tgz"):
        run(PACKAGE, [sys.executable, "-c", ""], tmp_path)


def test_pip_fetches_what_has_the_pinned_digest_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pinned = Package("pip", "thing", "1.0", wheel.name, digest(wheel))
    monkeypatch.chdir(tmp_path)
    cache = Cache(Path("cache"))
    assert cache.members([pinned])["thing/data.txt"] == CONTENT
    with pytest.raises(PackageUnavailable, match=r"(?i)hash"):
        Cache(tmp_path / "other").obtain(Package("pip", "thing", "1.0", wheel.name, SHA256))


def make_wheel(folder: Path) -> Path:
    path = folder / "thing-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/data.txt", CONTENT)
        archive.writestr("thing-1.0.dist-info/METADATA", about)
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    return path


def test_a_library_of_another_version_is_refused() -> None:
    other = Package("installed", BABEL.name, "0.0.1")
    with pytest.raises(PackageUnavailable, match=r"install intarsia\[tasks\]"):
        Cache(Path("unused")).obtain(other)
    with pytest.raises(PackageUnavailable, match="not installed"):
        Cache(Path("unused")).obtain(Package("installed", "no-such-library", "1.0"))


def test_members_of_an_installed_library_are_none() -> None:
    assert dict(Cache(Path("unused")).members([BABEL])) == {}


def test_apt_keeps_its_state_in_the_given_folder(tmp_path: Path) -> None:
    text = apt_config(tmp_path, languages=("en", "de")).read_text()
    assert f'Dir::State::lists "{tmp_path}/lists";' in text
    assert 'Acquire::Languages { "en"; "de";  };' in text
    assert (tmp_path / "lists" / "partial").is_dir()


def test_a_part_of_the_index_that_apt_does_not_have_is_named(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "host_dists_bookworm_main_binary-amd64_Packages").write_text("")
    with pytest.raises(PackageUnavailable, match=r"no Translation-en of bookworm.*W: offline"):
        index_files(DEBIAN_INDEX, tmp_path, "W: offline")


def tar(members: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def debian_package(data: bytes) -> bytes:
    """An `ar` archive, whose members start at even offsets."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data}
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    return packed


@pytest.mark.parametrize("kind", ["tar.gz", "deb", "folder"])
def test_archives_give_their_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
        (path / "a.txt").write_bytes(CONTENT)
    elif kind == "deb":
        path.write_bytes(debian_package(tar({"./a.txt": CONTENT}, "w:xz")))
    else:
        path.write_bytes(tar({"a.txt": CONTENT}, "w:gz"))
    archive = open_archive(path)
    assert dict(archive) == {"a.txt": CONTENT}
    with pytest.raises(KeyError):
        archive["b.txt"]


def test_digest_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    found = set()
    for name, content in [("a", b"1"), ("b", b"1"), ("a", b"2")]:
        folder = tmp_path / f"{name}{content!r}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        found.add(digest(folder))
    assert len(found) == 3
