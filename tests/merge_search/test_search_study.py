"""A study over a function that is known: it finds the top, and what was killed goes on the same."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from merge_search.dimensions import Range
from merge_search.errors import JournalRefused, SearchRefused, TicketLost
from merge_search.journal import Journal
from merge_search.mix import Mix
from merge_search.proposals import Grid, Proposer, Told, Tree
from merge_search.space import Coordinates, Space
from merge_search.study import Limits, Stand, Study
from merge_search.trials import Trial, best_of, first_trials, ranked
from merge_search.weights import Weights

NAMES = ("sql@1", "chat@2")
TOP = {"sql@1": 0.8, "chat@2": 0.3}
HEAD = {"candidates": list(NAMES)}


class Killed(Exception):
    """The process is gone."""


def score_of(mix: Mix) -> float:
    """0 at the top: `ties` with TOP's weights and density 0.6; less everywhere else."""
    weights = dict(mix.members)
    far = sum((weights.get(name, 0.0) - top) ** 2 for name, top in TOP.items())
    is_best = mix.merge.get("method") == "ties"
    density = float(mix.merge.get("density", 0.6))
    return -far - (0 if is_best else 0.5) - (density - 0.6) ** 2


class Scorer:
    """Mutable. Scores by a function; dies while it waits for the evaluation number `dies_at`."""

    def __init__(
        self, score: Callable[[Mix], float | None] = score_of, dies_at: int | None = None
    ) -> None:
        self.score, self.dies_at = score, dies_at
        self.begun: list[list[Trial]] = []

    def begin(self, trials: Sequence[Trial]) -> str:
        self.begun.append(list(trials))
        return f"evaluation-{trials[0].number}"

    def finish(
        self, ticket: str, trials: Sequence[Trial], on_progress: Callable[[float], None]
    ) -> list[float | None]:
        if self.dies_at is not None and trials[0].number >= self.dies_at:
            raise Killed
        on_progress(0.5)
        return [self.score(trial.mix) for trial in trials]


def make_space(methods: Sequence[str] = ("linear", "ties"), **parameters: Any) -> Space:
    return Space.build(NAMES, methods, Weights(0, 1.5), parameters)


def run(
    path: Path,
    scorer: Any,
    limits: Limits | None = None,
    *,
    space: Space | None = None,
    proposer: Proposer | None = None,
    seed: int = 0,
    on_progress: Callable[[Stand], None] = lambda _: None,
) -> list[Trial]:
    space = space or make_space()
    ticks = count()
    with Journal(path, HEAD) as journal:
        study = Study(
            space,
            proposer or Tree(space, seed, higher_is_better=True),
            scorer,
            journal,
            limits or Limits(trials=40, batch=8),
            higher_is_better=True,
            clock=lambda: float(next(ticks)),
            on_progress=on_progress,
        )
        return study.run(first_trials(space, NAMES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_a_search_beats_where_it_starts_and_comes_near_the_top(path: Path) -> None:
    trials = run(path, Scorer(), Limits(trials=120, batch=8))
    best = best_of(trials, higher_is_better=True)
    assert best is not None
    assert best.kind == "search"
    assert best.mix.merge["method"] == "ties"
    assert best.score is not None
    start = max(score_of(each.mix) for each in trials if each.kind != "search")
    assert best.score > -0.05 > start
    assert len(trials) == 120


def test_no_mix_is_tried_twice(path: Path) -> None:
    space = make_space(("ties",), density=[0.2, 0.4, 0.6], sign=["sum", "count"])
    fixed = Space.build(NAMES, ["ties"], Weights(1, 1), {"density": [0.2, 0.4], "lambda": 1.0})
    trials = run(path, Scorer(), Limits(trials=64, batch=8), space=fixed)
    keys = [each.mix.key for each in trials]
    assert len(set(keys)) == len(keys) == 2 + 1 + 1 + 2  # then nothing new is to be found
    trials = run(path.with_name("other"), Scorer(), Limits(trials=64, batch=8), space=space)
    assert len({each.mix.key for each in trials}) == 64


@pytest.mark.parametrize("dies_at", [0, 5, 13, 29])
def test_what_was_killed_goes_on_as_if_it_had_not_been(path: Path, dies_at: int) -> None:
    whole = run(path.with_name("whole"), Scorer())
    first, second = Scorer(dies_at=dies_at), Scorer()
    with pytest.raises(Killed):
        run(path, first)
    assert run(path, second) == whole
    begun = [trial.number for trials in [*first.begun, *second.begun] for trial in trials]
    assert begun == list(range(40))  # the evaluation that was under way is waited for


def test_seeds_try_other_points(path: Path) -> None:
    a, b = run(path, Scorer(), seed=1), run(path.with_name("b"), Scorer(), seed=2)
    assert [t.mix.key for t in a[:6]] == [t.mix.key for t in b[:6]]
    assert not {t.mix.key for t in a[6:]} & {t.mix.key for t in b[6:]}


def test_a_line_that_was_cut_short_is_written_anew(path: Path) -> None:
    whole = run(path, Scorer())
    written = path.read_bytes()
    last = written.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(written[: last + 9])
    assert run(path, again := Scorer()) == whole
    assert again.begun == []
    assert path.read_bytes().count(b"\n") == written.count(b"\n")
    assert run(path, Scorer()) == whole  # nothing of the piece is left


def test_more_trials_go_on_from_those_that_are_made(path: Path) -> None:
    made = run(path, Scorer(), Limits(trials=21, batch=8))
    more = run(path, later := Scorer(), Limits(trials=29, batch=8))
    assert (more[:21], len(more)) == (made, 29)
    assert [len(trials) for trials in later.begun] == [8]


def test_an_evaluation_that_is_gone_is_begun_again(path: Path) -> None:
    class Forgetful(Scorer):
        def finish(self, *given: Any) -> list[float | None]:
            if len(self.begun) == 1:
                raise TicketLost(given[0])
            return super().finish(*given)

    trials = run(path, scorer := Forgetful(), Limits(trials=8, batch=8))
    assert [len(each) for each in scorer.begun] == [5 + 1, 5 + 1, 2]
    assert all(each.score is not None for each in trials)


def test_a_trial_without_a_score_is_never_the_best(path: Path) -> None:
    def score(mix: Mix) -> float | None:
        return None if mix.merge.get("method") == "ties" else score_of(mix)

    trials = run(path, Scorer(score), Limits(trials=24, batch=8))
    assert any(each.score is None and each.kind == "search" for each in trials)
    assert all(
        each.mix.merge.get("method") != "ties" for each in ranked(trials, higher_is_better=True)
    )


def test_the_base_is_scored_but_is_no_mix_to_choose(path: Path) -> None:
    trials = run(path, Scorer(lambda mix: -float(len(mix.members))), Limits(trials=8, batch=8))
    best = best_of(trials, higher_is_better=True)
    assert trials[0].score == 0
    assert best is not None
    assert best.mix.call == NAMES[0]  # of equals the first


def test_no_round_begins_that_would_end_too_late(path: Path) -> None:
    # The clock ticks twice a round: each seems to take a second.
    trials = run(path, scorer := Scorer(), Limits(trials=100, batch=8, seconds=3))
    assert [len(each) for each in scorer.begun] == [6, 8, 8]
    assert run(path, later := Scorer(), Limits(trials=100, batch=8, seconds=3)) == trials
    assert later.begun == []


def test_progress_grows_to_the_end_and_tells_the_best(path: Path) -> None:
    stands: list[Stand] = []
    run(path, Scorer(), Limits(trials=22, batch=8), on_progress=stands.append)
    assert [stand.num_done for stand in stands] == [3, 6, 10, 14, 18, 22]
    assert stands[0].best is None
    assert stands[-1].best is not None


def test_fewer_trials_than_the_first_ones_are_refused(path: Path) -> None:
    with pytest.raises(SearchRefused, match="at least 6"):
        run(path, Scorer(), Limits(trials=5, batch=8))


def test_a_grid_is_tried_whole_and_needs_no_optuna(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    space = Space.build(NAMES, ["ties"], Weights(0, 0, 1.1), {"density": Range(0.2, 1)})
    grid = Grid(space, 3)
    trials = run(path, Scorer(), Limits(trials=99, batch=4), space=space, proposer=grid)
    points = {space.mix(each).key for each in space.grid(3)}
    assert points <= {each.mix.key for each in trials}
    with pytest.raises(ImportError):
        Tree(space, 0, higher_is_better=True).propose([], 1, 1, lambda _: True)


def test_points_of_a_batch_are_spread(path: Path) -> None:
    space = make_space(("linear",))
    told = [Told(Coordinates("linear", (x / 20, 0.5)), -abs(x - 10)) for x in range(21)]
    found = Tree(space, 3, higher_is_better=True).propose(told, 8, 5, lambda _: True)
    assert len({each.places for each in found}) == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json\n", "no journal"),
        (
            json.dumps({"format": "intarsia-search/1", "candidates": ["other@1"]}) + "\n",
            "candidates",
        ),
        (json.dumps({**HEAD, "format": "intarsia-search/0"}) + "\n", "format"),
    ],
)
def test_a_journal_of_another_search_is_refused(path: Path, text: str, reason: str) -> None:
    path.write_text(text)
    with pytest.raises(JournalRefused, match=reason):
        run(path, Scorer())
    assert path.read_text() == text


def test_two_searches_do_not_share_a_journal(path: Path) -> None:
    with Journal(path, HEAD), pytest.raises(JournalRefused, match="another process"):
        run(path, Scorer())
