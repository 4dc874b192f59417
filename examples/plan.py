"""What is compared: methods, tasks, rates, stages. Decides; runs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.runs import Training

TASKS = ("question_type", "number_to_words", "antonym", "sentiment_yelp", "german_to_english")
RATE_TASK = "number_to_words"  # of which validation rows decide every method's rate
ROW_TASKS = ("question_type", "number_to_words")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
STAGES = ("rates", "tasks", "rows", "multitask", "continue", "costs")
STEPS = 80  # half of them to choose rates and to go on from a merge, a quarter to time them
BASE = "base"
SPARSE = "element 0.01"  # the method of the later stages


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table: fields of `intarsia train`, and the rate that is tried first."""

    fields: Mapping[str, Any]
    first_rate: float


# The block's keep ratio is that of the 0.01 methods, so that they train as many values: SHiRA and
# LoRA too. Its file is half as large, since a tile has one index.
METHODS: Mapping[str, Method] = {
    "element 0.1": Method({"method": "mcs", "keep_ratio": 0.1}, 1e-3),
    SPARSE: Method({"method": "mcs", "keep_ratio": 0.01}, 3e-3),
    "block 16x16 0.01": Method({"method": "mcs", "keep_ratio": 0.01, "form": "16x16"}, 3e-3),
    "SHiRA snip 0.01": Method({"method": "snip", "keep_ratio": 0.01}, 3e-3),
    "LoRA, as many": Method({"method": "lora", "keep_ratio": 0.01}, 3e-3),
    "full targets": Method({"method": "full_targets"}, 3e-4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One line of the log: a training (none for the base, and for a merge) and what it is tried on.

    `merge` has the runs whose adapters are merged: what is scored where there is no training, and
    where training begins where there is one.
    """

    stage: str
    method: str
    about: str  # a task, or what the data is
    tasks: Sequence[str]  # scored
    training: Training | None = None
    merge: Sequence["Run"] = ()

    @property
    def name(self) -> str:
        words = f"{self.stage}.{self.method}.{self.about}"
        return words.replace(", ", "-").replace(" ", "-")

    def settings(self) -> dict[str, Any]:
        """All that decides the line."""
        return {
            "training": self.training.described() if self.training else None,
            "merge": [run.name for run in self.merge],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of each stage, once rates are known. Shorter plans are for trying the script."""

    steps: int = STEPS
    methods: Sequence[str] = tuple(METHODS)
    tasks: Sequence[str] = TASKS

    def rate_run(self, method: str, rate: float) -> Run:
        """Half as long as the others: its line has the loss of validation rows, no scores."""
        training = Training(
            steps=self._half,
            data=(RATE_TASK,),
            lr=rate,
            fields=METHODS[method].fields,
            validation=RATE_TASK,
        )
        about = f"{rate:g}"
        return Run(stage="rates", method=method, about=about, tasks=(), training=training)

    def runs(self, stage: str, rates: Mapping[str, float]) -> list[Run]:
        """The runs of a stage but `rates`, each method with its rate."""
        if stage == "tasks":
            base = [Run(stage=stage, method=BASE, about=t, tasks=(t,)) for t in self.tasks]
            return base + [self._on(t, m, rates) for m in self.methods for t in self.tasks]
        if stage == "rows":
            tasks = [task for task in ROW_TASKS if task in self.tasks]
            return [self._row_balanced(task, rates) for task in tasks]
        if stage == "multitask":
            fields = METHODS[SPARSE].fields
            return [self._mixed(stage, SPARSE, self.steps, fields, rates[SPARSE])]
        if stage == "costs":
            return [self._timed(method, rates) for method in self.methods]
        assert stage == "continue"
        return self._continued(rates)

    def wanted_rates(self, stages: Sequence[str]) -> list[str]:
        """Methods whose rates these stages need."""
        later = {SPARSE} if {"rows", "multitask", "continue"} & {*stages} else set()
        later |= {"full targets"} if "continue" in stages else set()
        all_of_them = {"tasks", "rates", "costs"} & {*stages}
        return [m for m in METHODS if m in later or (all_of_them and m in self.methods)]

    @property
    def _half(self) -> int:
        return max(2, self.steps // 2)

    def _on(self, task: str, method: str, rates: Mapping[str, float]) -> Run:
        fields = METHODS[method].fields
        training = Training(steps=self.steps, data=(task,), lr=rates[method], fields=fields)
        return Run(stage="tasks", method=method, about=task, tasks=(task,), training=training)

    def _timed(self, method: str, rates: Mapping[str, float]) -> Run:
        """A short training for its seconds and bytes alone: nothing is to run beside it."""
        fields, steps = METHODS[method].fields, max(2, self.steps // 4)
        training = Training(steps=steps, data=(RATE_TASK,), lr=rates[method], fields=fields)
        return Run(stage="costs", method=method, about=RATE_TASK, tasks=(), training=training)

    def _row_balanced(self, task: str, rates: Mapping[str, float]) -> Run:
        fields = {**METHODS[SPARSE].fields, "scope": "row"}
        training = Training(steps=self.steps, data=(task,), lr=rates[SPARSE], fields=fields)
        method = f"{SPARSE} row balanced"
        return Run(stage="rows", method=method, about=task, tasks=(task,), training=training)

    def _continued(self, rates: Mapping[str, float]) -> list[Run]:
        """The merge of all tasks' adapters itself, and trained on with its mask and with all."""
        members = [self._on(task, SPARSE, rates) for task in self.tasks]
        merge = Run(
            stage="continue",
            method="overlap average",
            about="merge",
            tasks=self.tasks,
            merge=members,
        )
        sparse, full = {"method": "mask_of_start"}, METHODS["full targets"].fields
        half = self._half
        return [
            merge,
            self._mixed("continue", "its mask", half, sparse, rates[SPARSE], merge=[merge]),
            self._mixed("continue", "all", half, full, rates["full targets"], merge=[merge]),
        ]

    def _mixed(
        self,
        stage: str,
        method: str,
        steps: int,
        fields: Mapping[str, Any],
        rate: float,
        merge: Sequence[Run] = (),
    ) -> Run:
        training = Training(steps=steps, data=self.tasks, lr=rate, fields=fields)
        return Run(
            stage=stage,
            method=method,
            about="mixed",
            tasks=self.tasks,
            training=training,
            merge=merge,
        )


def next_rate(losses: Mapping[float, float], first: float) -> float | None:
    """The rate to try after those with these validation losses; None if the best is known.

    Climbs: the best rate's two neighbours in RATES are tried before it counts as best.
    """
    if not losses:
        return first
    place = RATES.index(best_rate(losses))
    neighbours = RATES[max(0, place - 1) : place + 2]
    return next((rate for rate in neighbours if rate not in losses), None)


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate with the least loss; a loss that is no number is the worst."""
    return min(losses, key=lambda rate: (losses[rate] != losses[rate], losses[rate]))
