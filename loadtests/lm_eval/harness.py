"""One run of the harness, by its own interpreter, and what it wrote about every row."""

import json
import math
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent  # the tasks name their rows relative to it
TASKS = HERE / "tasks"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to one row: texts, or log-likelihoods and whether they are greedy."""

    texts: tuple[str, ...]
    numbers: tuple[float, ...]
    metric: float | tuple[float, int]  # of the row; for perplexity (log-likelihood, words)


Answers = dict[int, Answer]  # by row


@dataclass(frozen=True, slots=True)
class Harness:
    """lm_eval's own command, and where it writes."""

    command: Path
    directory: Path

    def run(self, name: str, model: str, *arguments: str, limit: int) -> Path:
        """Evaluate `limit` rows of all tasks; the folder with its results, if there are none yet.

        Raises RuntimeError with the output of a run that failed.
        """
        output = self.directory / f"{name}, {limit} rows"
        if any(output.rglob("results_*.json")):
            return output
        command = [str(self.command), "run", "--model", model, "--log_samples"]
        command += ["--include_path", str(TASKS), "--output_path", str(output)]
        command += ["--tasks", *task_names(), "--limit", str(limit)]
        environment = {**os.environ, **OFFLINE}
        run = subprocess.run(
            [*command, *arguments],
            cwd=HERE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(run.args)} ended with {run.returncode}:\n{run.stdout}")
        return output


def task_names() -> list[str]:
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def read_answers(output: Path, task: str) -> Answers:
    """Every row's answer that a run wrote into `output`."""
    [path] = output.rglob(f"samples_{task}_*.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    return {row["doc_id"]: _answer(row) for row in rows}


def score(answers: Iterable[Answer]) -> float:
    """The mean in points, or the perplexity: what the harness itself reports for these rows."""
    metrics = [answer.metric for answer in answers]
    pairs = [metric for metric in metrics if isinstance(metric, tuple)]
    if pairs:
        return math.exp(-sum(own for own, _ in pairs) / sum(words for _, words in pairs))
    return 100 * sum(metric for metric in metrics if isinstance(metric, float)) / len(metrics)


def _answer(row: dict[str, Any]) -> Answer:
    metric = row[row["metrics"][0]]
    leaves = list(_leaves(row["resps"]))
    numbers = [number for leaf in leaves if (number := _number(leaf)) is not None]
    texts = tuple(leaf for leaf in leaves if _number(leaf) is None)
    value = (metric[0], metric[1]) if isinstance(metric, list) else float(metric)
    return Answer(texts, tuple(numbers), value)


def _leaves(tree: Sequence[Any] | str) -> Iterable[str]:
    if isinstance(tree, str):
        return [tree]
    return [leaf for branch in tree for leaf in _leaves(branch)]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
