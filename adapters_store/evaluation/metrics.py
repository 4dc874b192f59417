"""Metrics as rows of a table: what each needs to know of a row, and the score it makes of that.

Knows no model: the answer and the log-likelihoods come from whoever asks. docs/evaluation.md has
the formulas.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adapters_store.evaluation import texts
from adapters_store.evaluation.errors import RowRefused, ScoresRefused, UnknownMetric
from adapters_store.evaluation.rows import EvalRow
from adapters_store.evaluation.scores import Floats, Scale, Score

Needs = Literal["answer", "target", "choices"]
MAX_NATS = 700.0  # perplexity of more would be beyond fp64; it is shown as exp(700)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The natural log-probability of a text after the prompt, summed over its tokens."""

    logprob: float
    num_tokens: int  # above 0

    def __post_init__(self) -> None:
        assert self.num_tokens > 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a subject did with a row: only what the metrics asked for need be there."""

    answer: str | None = None  # generated text, without the prompt
    target: Likelihood | None = None  # of the row's first target
    choices: tuple[Likelihood, ...] = ()  # of each of the row's choices, in their order


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    summary: str
    needs: Needs
    scale: Scale
    score: Callable[[EvalRow, Evidence], float]
    weight: Callable[[Evidence], float] = lambda _: 1.0

    @property
    def higher_is_better(self) -> bool:
        return self.scale.higher_is_better

    def measure(self, row: EvalRow, evidence: Evidence) -> Score:
        """The row's score and its weight in the task; ScoresRefused if it is not a number."""
        score = Score(self.score(row, evidence), self.weight(evidence))
        if not np.isfinite(score).all():
            raise ScoresRefused(f"{self.name} of a row is {score.value}")
        return score


def metrics_of(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics called `names`, each once, in their order. Raises UnknownMetric."""
    for name in (unique := list(dict.fromkeys(names))):
        if name not in METRICS:
            raise UnknownMetric(name, list(METRICS))
    return tuple(METRICS[name] for name in unique)


def check_row(row: EvalRow, number: int, metrics: Iterable[Metric]) -> None:
    """Raise RowRefused where row `number` lacks what one of `metrics` needs."""
    for metric in metrics:
        if metric.needs == "choices" and not row.choices:
            raise RowRefused(number, "choices", f"is missing, and metric {metric.name} needs it")


def _best(similarity: Callable[[str, str], float]) -> Callable[[EvalRow, Evidence], float]:
    """The percentage for the target that the answer is most like."""

    def score(row: EvalRow, evidence: Evidence) -> float:
        answer = evidence.answer
        assert answer is not None
        return 100 * max(similarity(answer, target) for target in row.targets)

    return score


def _accuracy(row: EvalRow, evidence: Evidence) -> float:
    return _right(row, [choice.logprob for choice in evidence.choices])


def _accuracy_norm(row: EvalRow, evidence: Evidence) -> float:
    pairs = zip(evidence.choices, row.choices, strict=True)
    return _right(row, [choice.logprob / len(text) for choice, text in pairs])


def _right(row: EvalRow, logprobs: list[float]) -> float:
    """100 where the likeliest choice, of equals the first, is a target."""
    assert len(logprobs) == len(row.choices) > 0
    if not np.isfinite(logprobs).all():
        return float("nan")
    return 100.0 * (row.choices[int(np.argmax(logprobs))] in row.targets)


def _loss(_: EvalRow, evidence: Evidence) -> float:
    assert evidence.target is not None
    return -evidence.target.logprob / evidence.target.num_tokens


def _tokens(evidence: Evidence) -> float:
    assert evidence.target is not None
    return float(evidence.target.num_tokens)


def _same(mean: Floats) -> Floats:
    return mean


def _exp(mean: Floats) -> Floats:
    exp: Floats = np.exp(np.minimum(mean, MAX_NATS))
    return exp


PERCENT = Scale("percent", higher_is_better=True, bounds=(0.0, 100.0), of_mean=_same)
NATS = Scale("nats per token", higher_is_better=False, bounds=None, of_mean=_same)
PERPLEXITY = Scale("perplexity", higher_is_better=False, bounds=None, of_mean=_exp)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("rouge_l", "Rouge-L F, stemmed", "answer", PERCENT, _best(texts.rouge_l)),
        Metric("exact_match", "equal, normalised", "answer", PERCENT, _best(texts.exact_match)),
        Metric(
            "contains", "target's words in the answer", "answer", PERCENT, _best(texts.contains)
        ),
        Metric("f1", "F1 of words, as SQuAD's", "answer", PERCENT, _best(texts.f1)),
        Metric("accuracy", "the likeliest choice is right", "choices", PERCENT, _accuracy),
        Metric(
            "accuracy_norm",
            "the likeliest choice per character is right",
            "choices",
            PERCENT,
            _accuracy_norm,
        ),
        Metric("loss", "mean of -ln p over target tokens", "target", NATS, _loss, _tokens),
        Metric("perplexity", "e to the loss", "target", PERPLEXITY, _loss, _tokens),
    )
}
