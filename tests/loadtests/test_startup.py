"""The table of starts, and what an import profile says."""

from collections.abc import Mapping, Sequence
from io import StringIO

from rich.console import Console

from loadtests.startup import Start, import_times, table_of

PROFILE = """\
import time: self [us] | cumulative | imported package
import time:       150 |        150 |   torch._C
import time:      1000 |       1150 | torch
import time:        30 |         30 |     server.model.step
a warning in between
"""


def shown(starts: Mapping[str, Sequence[Start]]) -> list[list[str]]:
    """The table's rows, as text."""
    console = Console(file=StringIO(), width=200)
    console.print(table_of(starts))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_rows_are_medians_over_starts() -> None:
    starts = [Start(4.0 + at, 5.0, [0.3 + at, 0.1, 0.2 + at], [0.25, 0.125]) for at in range(3)]
    (row,) = shown({"kept": starts})
    assert row == ["kept", "3", "5.0", "5.0", "1300", "1200", "1.08", "250", "125"]


def test_a_folder_without_adapters_leaves_their_columns_empty() -> None:
    (row,) = shown({"nothing kept": [Start(1.0, 1.0, [0.2, 0.1], [])]})
    assert row == ["nothing kept", "1", "1.0", "1.0", "200", "100", "2.00", "", ""]


def test_imports_are_summed_by_package() -> None:
    assert import_times(PROFILE) == {"torch": 1150, "server": 30}
