"""The comparison on five tasks: every method trained by `intarsia train`, scored on unseen rows.

    python -m examples.compare --workers 2

Killed at any time and started again, it goes on: lines that are in `comparison/results.jsonl` are
not made again, trainings continue from their checkpoints. Table and picture are drawn of the log.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adapters_store.files import read
from examples.drawing import draw
from examples.log import Log
from examples.plan import (
    BASE,
    METHODS,
    RATE_TASK,
    STAGES,
    STEPS,
    TASKS,
    Plan,
    Run,
    best_rate,
    next_rate,
)
from examples.processes import do_all
from examples.runs import Place
from examples.task_rows import TaskRows
from server.model.demo_base import ensure_demo_base

DATA_DIR = Path("data")
LOGS = Path(__file__).parent / "comparison"
# On one core of the machine that made the committed log.
SECONDS_PER_STEP, SECONDS_PER_START = 1.5, 25
SECONDS_PER_SCORED_ROW, SECONDS_PER_ROW_OF_BASE = 0.4, 1.2  # the base does not stop by itself
RATES_EACH = 3.5


class Comparison:
    """The runs of a plan, at one place, into one log."""

    def __init__(self, plan: Plan, place: Place, log: Log, rows: int, workers: int) -> None:
        self.plan, self.place, self.log = plan, place, log
        self.rows, self.workers = rows, workers

    def do(self, stages: Sequence[str]) -> None:
        """All stages, one after the other, and rates where they need them and have none."""
        self.place.task_rows.build([*{*self.plan.tasks, RATE_TASK}], self.place.processes)
        wanted = self.plan.wanted_rates(stages)
        self._all("rates", [partial(self.search, method) for method in wanted])
        for stage in (stage for stage in STAGES if stage in stages and stage != "rates"):
            runs = self.plan.runs(stage, {method: self.rate(method) for method in wanted})
            self._all(stage, [partial(self.finish, run) for run in runs])
        draw(self.log)

    def _workers(self, stage: str) -> int:
        return 1 if stage == "costs" else self.workers

    def _all(self, stage: str, jobs: Sequence[Callable[[], object]]) -> None:
        with tqdm(total=len(jobs), desc=stage) as bar:

            def counted(job: Callable[[], object]) -> None:
                job()
                bar.update()

            counting = [partial(counted, job) for job in jobs]
            do_all(counting, self.place.processes, self._workers(stage))

    def losses(self, method: str) -> dict[float, float]:
        """The validation losses of the rates that were tried."""
        lines = [line for line in self.log.lines("rates") if line["method"] == method]
        tried = {line["settings"]["training"]["lr"]: line["validation_loss"] for line in lines}
        runs = {rate: self.plan.rate_run(method, rate) for rate in tried}
        return {
            rate: loss
            for rate, loss in tried.items()
            if self.log.line(runs[rate].name, self._settings(runs[rate]))
        }

    def rate(self, method: str) -> float:
        return best_rate(self.losses(method))

    def search(self, method: str) -> None:
        """Try rates until the best lies between two worse ones, or at the end of them."""
        first = METHODS[method].first_rate
        while (rate := next_rate(self.losses(method), first)) is not None:
            self.finish(self.plan.rate_run(method, rate))

    def finish(self, run: Run) -> None:
        """See that the line of `run` is in the log."""
        if self.log.line(run.name, self._settings(run)) is not None:
            return
        adapter, result = self._made(run)
        scores = self.place.scored(run.name, run.tasks, self.rows, adapter) if run.tasks else {}
        line = {
            "run": run.name,
            "stage": run.stage,
            "method": run.method,
            "about": run.about,
            "settings": self._settings(run),
            "scores": scores,
            "workers": self._workers(run.stage),
            **_of(result),
        }
        self.log.add(line, [step["loss"] for step in result.get("steps", [])])

    def _made(self, run: Run) -> tuple[Path | None, dict[str, Any]]:
        """The adapter of a run and the result of its training, as far as there are any."""
        if run.training is None:
            return self._merge_made(run) if run.merge else (None, {})
        training = run.training
        if run.merge:
            (start,) = run.merge
            training = replace(training, start_from=self._merged(start))
        return self.place.adapter(run.name), self.place.trained(run.name, training)

    def _merge_made(self, run: Run) -> tuple[Path, dict[str, Any]]:
        path = self._merged(run)
        adapter = read(path)
        told = {"digest": adapter.digest, "entries": adapter.nnz, "bytes": path.stat().st_size}
        return path, {"adapter": told}

    def _merged(self, run: Run) -> Path:
        members = []
        for member in run.merge:
            assert member.training is not None
            self.place.trained(member.name, member.training)
            members.append(self.place.adapter(member.name))
        return self.place.merged(run.name, members)

    def _settings(self, run: Run) -> dict[str, Any]:
        return run.settings() | ({"rows": self.rows} if run.tasks else {})

    def estimate(self, stages: Sequence[str]) -> Iterable[tuple[str, int, float]]:
        """Per stage: runs that are not in the log, and minutes; rates are guessed to be three."""
        guess = {method: METHODS[method].first_rate for method in METHODS}
        for stage in stages:
            if stage == "rates":
                missing = [m for m in self.plan.methods if not self._has_rate(m)]
                runs = [self.plan.rate_run(m, guess[m]) for m in missing]
                seconds = RATES_EACH * sum(map(self._seconds, runs))
                yield stage, round(RATES_EACH * len(runs)), seconds / 60 / self.workers
                continue
            done = {line["run"] for line in self.log.lines(stage)}
            runs = [run for run in self.plan.runs(stage, guess) if run.name not in done]
            yield stage, len(runs), sum(map(self._seconds, runs)) / 60 / self._workers(stage)

    def _has_rate(self, method: str) -> bool:
        return next_rate(self.losses(method), METHODS[method].first_rate) is None

    def _seconds(self, run: Run) -> float:
        training = run.training.steps * SECONDS_PER_STEP + SECONDS_PER_START if run.training else 0
        each = SECONDS_PER_ROW_OF_BASE if run.method == BASE else SECONDS_PER_SCORED_ROW
        return training + len(run.tasks) * self.rows * each


def _of(result: dict[str, Any]) -> dict[str, Any]:
    """What the log keeps of a training's result."""
    kept: dict[str, Any] = {key: result[key] for key in ("adapter", "phases") if key in result}
    if "lineage" in result:
        kept["versions"] = result["lineage"]["versions"]
    if result.get("evaluations"):
        kept["validation_loss"] = result["evaluations"][-1]["eval_loss"]
    return kept


def main() -> None:
    options = _options()
    base = ensure_demo_base(DATA_DIR).resolve()
    plan = Plan(options.steps, options.method or tuple(METHODS), options.task or TASKS)
    place = Place(base, options.work.resolve(), TaskRows(DATA_DIR))
    found = Comparison(plan, place, Log(options.log), options.rows, options.workers)
    stages = options.stage or STAGES
    for stage, runs, minutes in found.estimate(stages):
        print(f"{stage:10} {runs:3} runs to do, about {minutes:3.0f} minutes")
    found.do(stages)
    print(f"{options.log / 'table.md'}, {options.log / 'comparison.png'}")


def _options() -> Any:
    parser = argparse.ArgumentParser(description="Compare methods of training on five tasks.")
    parser.add_argument("--stage", action="append", choices=STAGES, help="of these; all unless")
    parser.add_argument("--method", action="append", choices=METHODS, help="only these")
    parser.add_argument("--task", action="append", choices=TASKS, help="only these")
    parser.add_argument("--workers", type=int, default=1, help="processes at once, a core each")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try the script")
    parser.add_argument("--rows", type=int, default=100, help="unseen rows of each task")
    parser.add_argument("--log", type=Path, default=LOGS, help="where results are kept")
    parser.add_argument("--work", type=Path, default=DATA_DIR / "comparison", help="scratch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
