"""Evaluations as `GET /v1/evaluations/{id}` answers them, and their rows, small and made up."""

import random
from collections.abc import Callable, Sequence
from typing import Any

SMALL_NUMBERS = ("loss", "perplexity")
METRICS = ("rouge_l", "loss", "perplexity")
SUBJECTS = ("base", "dates@3", "a merge of two")
TASKS = ("dates", "verbs")
CREATED = 1_795_340_000.25


def sample(
    subjects: Sequence[str] = SUBJECTS,
    tasks: Sequence[str] = TASKS,
    metrics: Sequence[str] = METRICS,
    reference: str | None = SUBJECTS[0],
) -> dict[str, Any]:
    """A succeeded evaluation with a gate; all numbers differ."""
    draw = random.Random(7)
    places = [(subject, task) for subject in subjects for task in (*tasks, None)]
    scores = [_entry(s, t, {m: _score(draw, m) for m in metrics}) for s, t in places]
    compared = [
        _entry(s, t, {m: _difference(draw) for m in metrics}) | {"reference": reference}
        for s, t in places
        if reference is not None and s != reference
    ]
    return {
        "id": "job-1",
        "object": "evaluation",
        "status": "succeeded",
        "progress": 1.0,
        "rows": {"done": 20, "total": 20},
        "rows_per_second": 2.0,
        "seconds": 10.0,
        "seconds_left": None,
        "subjects": [_subject(name) for name in subjects],
        "datasets": [_dataset(name) for name in tasks],
        "metrics": list(metrics),
        "generation": {"max_tokens": 64, "temperature": 0.0, "stop": ["\n\n"], "seed": 5},
        "prompt_mode": "raw",
        "seed": 3,
        "confidence": 0.95,
        "priority": 1,
        "reference": reference,
        "promote": None,
        "promotion": _promotion(subjects[-1], metrics[0]),
        "results": [each for each in scores if each["task"] is not None],
        "overall": [each for each in scores if each["task"] is None],
        "comparisons": compared,
        "error": None,
        "created": CREATED,
        "updated": CREATED + 10,
    }


def rows_of(evaluation: dict[str, Any], count: int = 4) -> list[dict[str, Any]]:
    """`count` rows of every task, to which no two subjects answer alike."""
    return [
        {
            "position": 0,
            "subject": subject["name"],
            "task": task["name"],
            "row": row,
            "prompt": f"the prompt of row {row}",
            "targets": ["one target", "another"],
            "output": f"{subject['name']} answers row {row}",
            "finish_reason": "stop",
            "num_tokens": 3,
            "choices": [{"logprob": -2.0, "num_tokens": 1}, {"logprob": -1.0, "num_tokens": 1}],
            "scores": dict.fromkeys(evaluation["metrics"], 1.5 + row + index),
        }
        for task in evaluation["datasets"]
        for row in range(count)
        for index, subject in enumerate(evaluation["subjects"])
    ]


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text of it changed but names of metrics, and no key."""
    if isinstance(value, dict):
        kept = ("metrics", "metric")
        return {
            name: each
            if name == "metric" or (name in kept and isinstance(each, list))
            else with_texts(each, change)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [with_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _entry(subject: str, task: str | None, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"subject": subject, "task": task, "metrics": metrics, "n": 10}


def _score(draw: random.Random, metric: str) -> dict[str, float]:
    mean = draw.uniform(1.5, 4) if metric in SMALL_NUMBERS else draw.uniform(20, 80)
    return {"mean": mean, "low": mean - draw.random(), "high": mean + draw.random()}


def _difference(draw: random.Random) -> dict[str, Any]:
    delta, p_value = draw.uniform(-9, 9), draw.choice((0.0004997501249, 0.031, 0.6))
    bounds = {"low": delta - draw.random(), "high": delta + draw.random()}
    return {"delta": delta, **bounds, "p_value": p_value, "wins": 5, "losses": 3, "ties": 2}


def _subject(name: str) -> dict[str, Any]:
    if name == "base":
        return {"name": name, "asked": name, "id": None, "digest": None, "merge": None}
    asked = {"adapters": [{"id": "a", "weight": 0.5}], "merge": {"method": "ties"}}
    return {
        "name": name,
        "asked": asked,
        "id": f"{name} id",
        "digest": "sha256:aa",
        "merge": "merged",
    }


def _dataset(name: str) -> dict[str, Any]:
    return {"name": name, "id": f"data-{name}", "digest": "sha256:bb", "rows": 10}


def _promotion(subject: str, metric: str) -> dict[str, Any]:
    gate = {"alias": "prod", "metric": metric, "task": None, "min": 40.0, "min_delta_over": None}
    conditions = [
        {
            "condition": "min_rows",
            "bar": 20,
            "found": 10,
            "bound": 10,
            "met": False,
            "reason": "few",
        },
        {
            "condition": "min",
            "bar": 40.0,
            "found": 44.1,
            "bound": 41.2,
            "met": True,
            "reason": "so",
        },
    ]
    evidence = {"gate": {**gate, "confidence": 0.95, "min_rows": 20}, "conditions": conditions}
    return {
        "promoted": False,
        "passed": False,
        "alias": "dates@prod",
        "subject": subject,
        "version": 3,
        "from": None,
        "found": None,
        "reasons": ["few", "so"],
        "evidence": evidence,
    }
