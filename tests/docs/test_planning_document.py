"""docs/planning.md is true: its commands print what it says, and draw the picture that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURE = "docs/planning.svg"
DOCUMENT = (ROOT / "docs" / "planning.md").read_text()
BLOCKS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=[own[0][:60] for own in BLOCKS])
def test_commands_of_the_planning_document_print_what_it_says(
    command: str, printed: str, tmp_path: Path
) -> None:
    drawn = tmp_path / "planning.svg"
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        command.replace(PICTURE, str(drawn)),
        shell=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100", "PATH": programs},
        capture_output=True,
        text=True,
    )
    output = (ran.stdout + ran.stderr).replace(str(drawn), PICTURE)
    assert _lines(output) == _lines(printed)
    assert drawn.exists() == (PICTURE in command)
    if drawn.exists():
        assert drawn.read_bytes() == (ROOT / PICTURE).read_bytes()


def test_the_document_has_commands_and_shows_the_picture() -> None:
    assert len(BLOCKS) == DOCUMENT.count("```console") > 3
    assert f"]({Path(PICTURE).name})" in DOCUMENT


def _lines(text: str) -> list[str]:
    """Without the blanks that a table ends its lines with."""
    return [line.rstrip() for line in text.strip().splitlines()]
