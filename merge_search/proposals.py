"""Which points are tried next: a grid in its order, or Optuna's tree of Parzen estimators.

A proposal hangs on the space, the seed, the round and what was scored so far alone, so a search
that is killed and goes on tries what it would have tried. Knows points and scores, no server.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from merge_search.dimensions import Axis
from merge_search.space import Coordinates, Space

if TYPE_CHECKING:
    import optuna

IsNew = Callable[[Coordinates], bool]
METHOD = "method"
MAX_ASKED = 20  # for each proposal, until one is new


@dataclass(frozen=True, slots=True)
class Told:
    """What a point scored; None: it could not be scored."""

    at: Coordinates
    score: float | None


class Proposer(Protocol):
    def propose(
        self, told: Sequence[Told], count: int, round_number: int, is_new: IsNew
    ) -> list[Coordinates]:
        """At most `count` points that are new, fewer only where no more are to be found.

        `is_new` says of a point whether its mix is tried yet, and holds it for tried from then on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Grid:
    """Every point of a space's grid, method by method."""

    space: Space
    steps: int

    def propose(
        self, told: Sequence[Told], count: int, round_number: int, is_new: IsNew
    ) -> list[Coordinates]:
        return list(islice(filter(is_new, self.space.grid(self.steps)), count))


@dataclass(frozen=True, slots=True)
class Tree:
    """Optuna's sampler. Points of a round that are still unscored count as bad, so it spreads."""

    space: Space
    seed: int
    higher_is_better: bool

    def propose(
        self, told: Sequence[Told], count: int, round_number: int, is_new: IsNew
    ) -> list[Coordinates]:
        with _quiet():
            study = self._study(told, round_number)
            asked = (self._ask(study) for _ in range(MAX_ASKED * count))
            return list(islice(filter(is_new, asked), count))

    def _study(self, told: Sequence[Told], round_number: int) -> "optuna.Study":
        import optuna

        # A seed for every round, since a sampler's own state dies with the process.
        seed = int(np.random.SeedSequence([self.seed, round_number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )
        direction = "maximize" if self.higher_is_better else "minimize"
        study = optuna.create_study(sampler=sampler, direction=direction)
        study.add_trials([self._trial(each) for each in told])
        return study

    def _trial(self, told: Told) -> "optuna.trial.FrozenTrial":
        import optuna

        axes = self._axes(told.at.method)
        params = dict(zip([axis.name for axis in axes], told.at.places, strict=True))
        spaces = {axis.name: _distribution(axis) for axis in axes}
        if len(self.space.methods) > 1:
            params[METHOD] = told.at.method  # type: ignore[assignment]
            spaces[METHOD] = optuna.distributions.CategoricalDistribution(list(self.space.methods))
        state = optuna.trial.TrialState
        return optuna.trial.create_trial(
            state=state.FAIL if told.score is None else state.COMPLETE,
            value=told.score,
            params=params,
            distributions=spaces,
        )

    def _ask(self, study: "optuna.Study") -> Coordinates:
        trial = study.ask()
        methods = list(self.space.methods)
        method = trial.suggest_categorical(METHOD, methods) if len(methods) > 1 else methods[0]
        return Coordinates(method, tuple(_suggest(trial, axis) for axis in self._axes(method)))

    def _axes(self, method: str) -> list[Axis]:
        """The method's axes by names that no other method has."""
        own = self.space.methods[method].axes
        return [Axis(f"{method} {axis.name}", axis.choices) for axis in own]


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if axis.choices is None:
        return FloatDistribution(0, 1)
    return CategoricalDistribution(list(range(axis.choices)))


def _suggest(trial: "optuna.Trial", axis: Axis) -> float:
    if axis.choices is None:
        return float(trial.suggest_float(axis.name, 0, 1))
    return int(trial.suggest_categorical(axis.name, list(range(axis.choices))))


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every study it makes, and of `group`, which it calls experimental."""
    import optuna

    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(told)
