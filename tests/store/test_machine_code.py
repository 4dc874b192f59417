"""Compiled loops are kept for the sources that they were made of, wherever code may be kept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from numba.core import config
from numba.core.caching import CacheImpl, IndexDataCacheFile, UserProvidedCacheLocator

from adapters_store.machine_code import PLACE, compile_and_keep, digest_of_sources, keep_in_need

ROOT = Path(__file__).parents[2]
FILES = {
    "loops.py": """
from adapters_store.machine_code import compile_and_keep
from pack.sums import part
from pack import numbers

def total(n):
    return part(n) + numbers.ONE

total = compile_and_keep(total, "pack")
""",
    "sums.py": """
from adapters_store.machine_code import compile_and_keep
from pack.numbers import ONE

def part(n):
    return n + ONE

part = compile_and_keep(part, "pack")
""",
    "numbers.py": "ONE = 1\n",
    "unrelated.py": "from pack.loops import total\n",
    "__init__.py": "",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of loops that call each other across files, and read a constant of a third one."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def nowhere_to_keep(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numba finds no place but the one that it is told."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [UserProvidedCacheLocator])
    monkeypatch.setenv(PLACE, "")
    config.reload_config()
    yield
    monkeypatch.undo()
    config.reload_config()


def digest(folder: Path) -> str:
    digest_of_sources.cache_clear()
    return digest_of_sources(folder / "loops.py", "pack.loops", "pack")


def run(folder: Path) -> tuple[int, int]:
    """What a process of its own gets of `total(1)`, and how many loops it compiled."""
    program = (
        "from pack.loops import total, part; print(total(1)); "
        "print(sum(sum(loop.stats.cache_misses.values()) for loop in (total, part)))"
    )
    paths = os.pathsep.join([str(folder.parent), str(ROOT)])
    found = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, compiled = found.stdout.split()
    return int(answer), int(compiled)


def test_code_of_a_changed_helper_in_another_file_is_made_anew(package: Path) -> None:
    assert run(package) == (3, 2)
    assert run(package) == (3, 0)
    (package / "sums.py").write_text(FILES["sums.py"].replace("n + ONE", "n + 40 * ONE"))
    assert run(package) == (42, 2)


def test_moved_checkout_compiles_nothing(package: Path, tmp_path: Path) -> None:
    assert run(package) == (3, 2)
    moved = shutil.move(tmp_path / "pack", tmp_path / "elsewhere" / "pack")
    for file in Path(moved).glob("*.py"):
        os.utime(file, (1, 1))
    assert run(Path(moved)) == (3, 0)


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damaged", [b"", b"no code"], ids=["empty", "foreign"])
def test_damaged_code_is_made_anew_and_kept_again(package: Path, kind: str, damaged: bytes) -> None:
    assert run(package) == (3, 2)
    for file in package.rglob(f"*.{kind}"):
        file.write_bytes(damaged)
    assert run(package) == (3, 2)
    assert run(package) == (3, 0)


def test_a_full_disk_keeps_no_loop_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    monkeypatch.setattr(IndexDataCacheFile, "flush", full)
    assert compile_and_keep(_double, "nothing")(2) == 4


@pytest.mark.parametrize("name", ["loops.py", "sums.py", "numbers.py"])
def test_digest_is_of_everything_imported_from_the_package(package: Path, name: str) -> None:
    before = digest(package)
    with (package / name).open("a") as file:
        file.write("# changed\n")
    assert digest(package) != before


def test_digest_is_of_nothing_else(package: Path) -> None:
    before = digest(package)
    (package / "unrelated.py").write_text("")
    assert digest(package) == before


@pytest.mark.usefixtures("nowhere_to_keep")
def test_code_is_kept_in_the_place_for_need(tmp_path: Path) -> None:
    keep_in_need(tmp_path / "compiled")
    assert compile_and_keep(_double, "nothing")(2) == 4
    assert len(list(tmp_path.rglob("*.nbc"))) == 1


@pytest.mark.usefixtures("nowhere_to_keep")
def test_where_nothing_may_be_kept_loops_run_nevertheless() -> None:
    assert compile_and_keep(_double, "nothing")(2) == 4


def test_the_place_for_need_is_left_alone_where_there_is_another(tmp_path: Path) -> None:
    keep_in_need(tmp_path / "compiled")
    assert compile_and_keep(_double, "nothing")(2) == 4
    assert list(tmp_path.iterdir()) == []


def _double(n: int) -> int:
    return n + n
