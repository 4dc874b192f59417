"""What a search found, on a terminal, as CSV and as JSON. Knows results, nothing of the search."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from merge_search.held_out import Tested
from merge_search.searching import SearchResult
from merge_search.trials import Trial, ranked

CSV, JSON = "trials.csv", "result.json"


def write_files(result: SearchResult, out: Path) -> None:
    """Every trial as CSV, and all that was found as JSON."""
    with (out / CSV).open("w", newline="") as file:
        csv.writer(file).writerows(trial_rows(result.trials))
    (out / JSON).write_text(json.dumps(result_json(result), indent=2, ensure_ascii=False) + "\n")


def trial_rows(trials: Sequence[Trial]) -> list[list[Any]]:
    """A heading, then a line for every trial: a column for each adapter and parameter."""
    members = list(dict.fromkeys(name for trial in trials for name, _ in trial.mix.members))
    settings = [name for trial in trials for name in trial.mix.merge if name != "method"]
    names = ["method", *dict.fromkeys(settings)]
    rows: list[list[Any]] = [["trial", "kind", "score", *members, *names]]
    for trial in trials:
        weights, merge = dict(trial.mix.members), trial.mix.merge
        own = [weights.get(name) for name in members] + [merge.get(name) for name in names]
        rows.append([trial.number, trial.kind, trial.score, *own])
    return rows


def result_json(result: SearchResult) -> dict[str, Any]:
    return {
        "metric": result.config.metric,
        "best": {"trial": result.best.number, "score": result.best.score, **result.recipe},
        "tested": [each.to_json() for each in result.tested],
        "trials": [trial.to_json() for trial in result.trials],
        "seconds": result.seconds,
        "data": [asdict(each) for each in result.data],
        "test": [asdict(each) for each in result.test],
        "search": result.config.model_dump(mode="json"),
    }


def summary_table(result: SearchResult) -> Table:
    """The best trials and the baselines: validation, and where there are test rows also those."""
    compared = ("test", "best less it", "p") if result.tested else ()
    table = Table("trial", "kind", "validation", *compared, box=None)
    for column in table.columns:
        column.no_wrap = True
    tested = {each.trial.number: each for each in result.tested}
    for trial in shown(result):
        own = _test_cells(tested.get(trial.number)) if tested else []
        table.add_row(str(trial.number), trial.kind, _number(trial.score), *own)
    return table


def shown(result: SearchResult) -> list[Trial]:
    """The best trials, then the baselines, each once."""
    higher_is_better = result.config.higher_is_better
    best = ranked(result.trials, higher_is_better=higher_is_better)[: result.config.top]
    baselines = [trial for trial in result.trials if trial.is_baseline]
    return [*best, *(trial for trial in baselines if trial not in best)]


def remarks(result: SearchResult) -> Iterable[str]:
    """How far the numbers can be trusted, a sentence each."""
    count, unscored = len(result.trials), sum(t.score is None for t in result.trials)
    yield f"Best of {count} trials on validation: that score is too good on average."
    if unscored:
        yield f"{unscored} of them could not be scored."
    if not result.tested:
        yield "Give test rows to learn what the best is worth on rows it was not chosen by."
    for each in result.tested:
        if each.gain is not None and each.gain.low <= 0 <= each.gain.high:
            yield f"The test rows do not tell the best from {each.trial.mix.call}."


def _test_cells(tested: Tested | None) -> list[str]:
    if tested is None:
        return ["", "", ""]
    score = f"{tested.mean:.4g} [{tested.low:.4g}, {tested.high:.4g}]"
    gain = tested.gain
    if gain is None:
        return [score, "", ""]
    return [score, f"{gain.delta:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]", f"{gain.p_value:.3f}"]


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:.4g}"
