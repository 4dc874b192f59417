"""Measure this server and its rivals on this machine, side by side.

    python -m loadtests.bench [--quick] [--sides NAME ...] [--scenarios WORD ...] [--curve NAME]

Writes a log that a later run goes on with, the table as Markdown, and a plot. `--quick` is for
trying it: short answers, one round, a log of its own.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from loadtests.bench import plot
from loadtests.bench.base import demo_base
from loadtests.bench.log import Log
from loadtests.bench.machine import machine
from loadtests.bench.publishing import publish
from loadtests.bench.rounds import Bench
from loadtests.bench.rows import rows
from loadtests.bench.scenarios import Scenario, curves, default
from loadtests.bench.sides import SIDES, Side
from loadtests.bench.table import markdown, table
from loadtests.rivals.environments import RIVALS

ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _arguments(arguments)
    signal.signal(signal.SIGTERM, _stop)  # else servers would outlive this process
    console = Console()
    sides, scenarios = _sides(asked.sides), _scenarios(asked)
    name = asked.curve or "table"
    folder = asked.out / ("quick" if asked.quick else "full")
    log = Log.open(folder / f"{name}.jsonl", machine())
    base = asked.base or demo_base(folder / "base.log")
    rounds = 1 if asked.quick else asked.rounds
    Bench(sides, scenarios, rounds, base, log, console.print).run()
    found = rows(log, scenarios, sides)
    console.print(table(found))
    (folder / f"{name}.md").write_text(markdown(found, log))
    plot.write(found, folder / f"{name}.svg")
    if asked.publish is not None:
        publish(asked.publish, name, folder)
    console.print(f"log, table and plot: {folder}/{name}.*")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sides", nargs="+", choices=[side.name for side in SIDES], metavar="NAME")
    add("--scenarios", nargs="+", metavar="WORD", help="those whose name has one of these in it")
    add("--curve", choices=curves(), help="in place of the table")
    add("--rounds", type=int, default=ROUNDS)
    add("--quick", action="store_true", help="short answers, one round")
    add("--base", type=Path, help="a Phi-3 checkpoint of the demo base's weights; made if not told")
    add("--out", type=Path, default=RIVALS / "bench")
    add("--publish", type=Path, metavar="DOC", help="put table and plot into this document")
    return parser.parse_args(arguments)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _sides(names: Sequence[str] | None) -> list[Side]:
    return [side for side in SIDES if names is None or side.name in names]


def _scenarios(asked: argparse.Namespace) -> list[Scenario]:
    every = curves()[asked.curve] if asked.curve else default()
    words = asked.scenarios
    chosen = [each for each in every if not words or any(word in each.name for word in words)]
    return [each.quick() for each in chosen] if asked.quick else chosen


if __name__ == "__main__":
    main()
