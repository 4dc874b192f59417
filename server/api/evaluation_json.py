"""Evaluations as routes answer them."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from adapters_store.evaluation.rows import EvalRow
from adapters_store.registry.evaluation_errors import DataSetNotFound
from server.evaluation.datasets import DataSets
from server.evaluation.plan import Plan
from server.evaluation.store import Outcome, Progress
from server.jobs.store import JobRecord

FORMULA = ("=", "+", "-", "@")  # what spreadsheets take a cell for that begins so
COLUMNS = ("subject", "task", "metric", "mean", "low", "high", "n")
RESULTS = ("results", "overall", "comparisons")
SETTINGS = (
    "base",
    "metrics",
    "generation",
    "prompt_mode",
    "seed",
    "confidence",
    "priority",
    "reference",
)
SUBJECT = ("name", "asked", "id", "digest", "merge")


def evaluation_json(job: JobRecord, progress: Progress) -> dict[str, Any]:
    """All of an evaluation but its rows. Results are null until it has succeeded."""
    plan, result = job.request, job.result or {}
    return {
        **progress_json(job, progress),
        "subjects": [{name: each[name] for name in SUBJECT} for each in plan["subjects"]],
        "datasets": [_task_json(each) for each in plan["tasks"]],
        **{name: plan[name] for name in SETTINGS},
        "promote": plan["promotion"],
        **{name: result.get(name) for name in RESULTS},
        "promotion": progress.decision,  # which stands, whatever became of the job
        "error": job.error,
        "created": job.created,
        "updated": job.updated,
    }


def progress_json(job: JobRecord, progress: Progress) -> dict[str, Any]:
    """How far it is; times in seconds, null while nothing is known."""
    rate = progress.rows_per_second
    return {
        "id": job.id,
        "object": "evaluation",
        "status": job.status,
        "progress": progress.num_done / progress.num_rows,
        "rows": {"done": progress.num_done, "total": progress.num_rows},
        "rows_per_second": rate,
        "seconds": progress.seconds,
        "seconds_left": None if job.has_ended else progress.seconds_left,
    }


def _task_json(task: Mapping[str, Any]) -> dict[str, Any]:
    limit, num_rows = task["limit"], task["num_rows"]
    asked = num_rows if limit is None else min(limit, num_rows)
    return {"name": task["name"], "id": task["dataset"], "digest": task["digest"], "rows": asked}


def results_csv(result: Mapping[str, Any]) -> str:
    """A line for every subject, task and metric; without a task it is of all tasks."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for each in (*result["results"], *result["overall"]):
        for metric, found in each["metrics"].items():
            numbers = (found["mean"], found["low"], found["high"], each["n"])
            names = (_cell(each["subject"]), _cell(each["task"] or ""))
            writer.writerow((*names, metric, *numbers))
    return text.getvalue()


def _cell(name: str) -> str:
    """`name`, behind an apostrophe where a spreadsheet would compute it."""
    return f"'{name}" if name.lstrip().startswith(FORMULA) else name


def rows_json(outcomes: Sequence[Outcome], plan: Plan, datasets: DataSets) -> list[dict[str, Any]]:
    """Outcomes with the rows that they are of, as far as their data set still exists."""
    known = _rows_of(outcomes, plan, datasets)
    return [
        _row_json(each, plan, known.get((each.place.task, each.place.row))) for each in outcomes
    ]


def _rows_of(
    outcomes: Sequence[Outcome], plan: Plan, datasets: DataSets
) -> dict[tuple[int, int], EvalRow]:
    wanted: dict[int, set[int]] = defaultdict(set)
    for each in outcomes:
        wanted[each.place.task].add(each.place.row)
    known: dict[tuple[int, int], EvalRow] = {}
    for task, indices in wanted.items():
        try:
            rows = datasets.rows(plan.tasks[task].dataset, indices)
        except DataSetNotFound:
            continue
        known.update(zip(((task, index) for index in sorted(indices)), rows, strict=True))
    return known


def _row_json(outcome: Outcome, plan: Plan, row: EvalRow | None) -> dict[str, Any]:
    place = outcome.place
    return {
        "position": place.position,
        "subject": plan.subjects[place.subject].name,
        "task": plan.tasks[place.task].name,
        "row": place.row,
        "prompt": row and row.prompt,
        "targets": row and list(row.targets),
        **outcome.evidence,
        "scores": {metric: score[0] for metric, score in outcome.scores.items()},
    }
