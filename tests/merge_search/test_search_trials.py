"""Which trials come first, and which is the best."""

from merge_search.mix import Mix
from merge_search.space import Space
from merge_search.trials import Trial, best_of, first_trials
from merge_search.weights import Weights

NAMES = ("sql@1", "chat@2")


def test_the_first_trials_are_what_anyone_would_try() -> None:
    found = first_trials(Space.build(NAMES, ("average", "ties"), Weights(0, 1.5), {}), NAMES)
    assert [each.kind for each in found] == ["base", "candidate", "candidate", "uniform", "start"]
    assert [each.mix.call for each in found][:4] == ["base", *NAMES, "average(sql@1, chat@2)"]
    assert found[3].at is not None  # it is also where `average` starts, and is tried once
    assert [each.number for each in found] == list(range(5))


def test_lower_may_be_better() -> None:
    trials = [Trial(n, "search", Mix((("a", n),)), None, s) for n, s in enumerate([2.0, 1.0])]
    best = best_of(trials, higher_is_better=False)
    assert best == trials[1]
