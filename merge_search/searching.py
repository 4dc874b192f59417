"""`search`: from a configuration to the best mix, its scores, and what they are worth."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from intarsia_client import Client, EvaluationOptions

from adapters_store.canonical import sha256_of
from merge_search.config import SearchConfig
from merge_search.data_sets import Rows, check_apart, find_rows
from merge_search.errors import NothingScored, SearchRefused
from merge_search.held_out import Tested, score_trials
from merge_search.journal import Journal
from merge_search.proposals import Grid, Proposer, Tree
from merge_search.scoring import ServerScorer
from merge_search.space import Space
from merge_search.study import Limits, Stand, Study
from merge_search.trials import Trial, best_of, first_trials, ranked

JOURNAL = "journal.jsonl"
# What may change from one start of a search to the next; everything else makes it another one.
FREE = {"test", "test_limit", "trials", "minutes", "top", "priority", "candidates", "data"}


@dataclass(frozen=True)
class SearchResult:
    """What a search found. Scores of `trials` are of the validation rows; `tested` may be empty.

    The best is the best of many on the validation rows, so its score there is too good on average:
    what `tested` says of it is not.
    """

    config: SearchConfig
    trials: Sequence[Trial]
    best: Trial
    tested: Sequence[Tested]
    seconds: float  # of evaluating trials
    data: Sequence[Rows]
    test: Sequence[Rows]

    @property
    def recipe(self) -> dict[str, Any]:
        """The fields that ask for the best mix, in any request that generates."""
        return self.best.mix.request()


def search(
    client: Client,
    config: SearchConfig,
    out: Path | str,
    on_progress: Callable[[Stand], None] = lambda _: None,
) -> SearchResult:
    """Search as `config` says, and keep a journal in the directory `out`.

    Where the journal holds part of this very search already, it goes on from there. Raises
    SearchError and what `client` raises.
    """
    higher_is_better = config.higher_is_better
    adapters = [client.adapter(reference) for reference in config.candidates]
    if len({each.digest for each in adapters}) < len(adapters):
        raise SearchRefused("candidates", "are the same adapter twice")
    names = tuple(each.id for each in adapters)
    space = config.space(names)
    data = find_rows(client, "data", config.data, "validation")
    test = find_rows(client, "test", config.test, "test")
    check_apart(data, test)
    head = {
        **config.model_dump(mode="json", exclude=FREE),
        "candidates": [[each.id, each.digest] for each in adapters],
        "data": [each.identity for each in data],
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    with Journal(Path(out) / JOURNAL, head) as journal:
        study = Study(
            space,
            _proposer(config, space),
            _scorer(client, config, data),
            journal,
            Limits(config.trials, config.batch, config.minutes and 60 * config.minutes),
            higher_is_better,
            time.monotonic,
            on_progress,
        )
        trials = study.run(first_trials(space, names))
        best = best_of(trials, higher_is_better=higher_is_better)
        if best is None:
            raise NothingScored(len(trials))
        tested = _tested(client, config, test, trials, best, journal) if test else []
        seconds = sum(each.seconds or 0.0 for each in journal.written.rounds)
    return SearchResult(config, trials, best, tested, seconds, data, test)


def _proposer(config: SearchConfig, space: Space) -> Proposer:
    """Raises SearchRefused for a grid that has more points than trials are made."""
    if config.grid is None:
        return Tree(space, config.seed, config.higher_is_better)
    beyond = next(islice(space.grid(config.grid), config.trials, None), None)
    if beyond is not None:
        raise SearchRefused("grid", f"has more points than the {config.trials} trials allowed")
    return Grid(space, config.grid)


def _scorer(client: Client, config: SearchConfig, rows: Sequence[Rows]) -> ServerScorer:
    options: EvaluationOptions = {
        "generation": config.generation or None,
        "prompt_mode": config.prompt_mode,
        "limit": config.limit,
        "seed": config.seed,
        "priority": config.priority,
    }
    return ServerScorer(client, [each.request for each in rows], config.metric, options)


def _tested(
    client: Client,
    config: SearchConfig,
    test: Sequence[Rows],
    trials: Sequence[Trial],
    best: Trial,
    journal: Journal,
) -> list[Tested]:
    baselines = [trial for trial in trials if trial.is_baseline]
    top = ranked(trials, higher_is_better=config.higher_is_better)[: config.top]
    chosen = [*baselines, *(trial for trial in top if trial not in baselines)]
    asked = [[each.identity for each in test], [each.number for each in chosen], config.test_limit]
    scorer = _scorer(client, config.model_copy(update={"limit": config.test_limit}), test)
    return score_trials(scorer, chosen, best, journal, sha256_of(asked))
