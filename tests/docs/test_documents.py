"""What the documents say is true: the tour's commands are run, the words they quote exist."""

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import httpx
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
WRITTEN_URL = "http://127.0.0.1:8000"
START_LIMIT_S = 120


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """(command, what it prints) of every console block."""
    parts = [part for block in blocks("console") for part in re.split(r"^\$ ", block, flags=re.M)]
    split = [part.split("\n", 1) for part in parts if part]
    return [(command, printed) for command, printed in split]


@pytest.fixture(scope="module")
def server(demo_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make serve` starts, on a free port, over a data directory of its own."""
    data = tmp_path_factory.mktemp("data")
    (data / "demo-base").symlink_to(demo_base)
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["--port", str(port), "--data-dir", str(data), "--publish-dir", "examples/adapters"]
    process = subprocess.Popen([sys.executable, "-m", "server", *flags], cwd=ROOT)
    try:
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/health/ready").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail("the server did not become ready")


def environment(url: str) -> dict[str, str]:
    """Commands find this environment's programs, at the server under test."""
    return os.environ | {"INTARSIA_URL": url, "COLUMNS": "100"}


@pytest.mark.demo
def test_tour_prints_what_the_readme_says(server: str) -> None:
    assert len(commands()) > 8
    bin_directory = Path(sys.executable).parent
    for command, printed in commands():
        here = command.replace(WRITTEN_URL, server).replace(
            ".venv/bin", shlex.quote(str(bin_directory))
        )
        ran = subprocess.run(
            here, shell=True, cwd=ROOT, env=environment(server), capture_output=True, text=True
        )
        assert (ran.stdout + ran.stderr).strip() == printed.strip(), command


@pytest.mark.demo
def test_python_of_the_readme_runs(server: str) -> None:
    [program] = blocks("python")
    ran = subprocess.run(
        [sys.executable, "-c", program.replace(WRITTEN_URL, server)], capture_output=True, text=True
    )
    assert ran.stderr == ""
    assert sorted(ran.stdout.splitlines()) == [
        "date-iso        A17",
        "number-words    seven thousand, nine hundred and sixteen",
        "number-words@1  seven thousand, nine hundred and sixteen",
    ]


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_linked_files_exist(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_verbs_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z ]+)`", README + (ROOT / "CONTRIBUTING.md").read_text()))
    verbs = {verb for group in named for verb in group.split()}
    assert verbs >= {"install", "fix", "check", "test", "serve", "bench"}
    assert [verb for verb in verbs if not re.search(rf"^{verb}:", makefile, re.MULTILINE)] == []


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = ARCHITECTURE[ARCHITECTURE.index("## Dependencies") :]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[]", name)[0].strip() for name in wanted}
    assert sorted(name for name in names if name not in table) == []


def test_files_that_architecture_names_exist() -> None:
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", ARCHITECTURE))
    roots = [ROOT, ROOT / "server", ROOT / "adapters_store"]
    assert named
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
