"""Samples, and what is said of them, in one call."""

from collections.abc import Sequence

from adapters_store.evaluation.resampling import Bootstrap, draw, pair
from adapters_store.evaluation.scores import Sample, Scale, Score
from adapters_store.evaluation.statistics import Comparison, Interval
from adapters_store.evaluation.statistics import compare as compare_pairs
from adapters_store.evaluation.statistics import interval as interval_of_drawn

FEW = Bootstrap(resamples=200)


def sample(values: Sequence[float], weights: Sequence[float] | None = None) -> Sample:
    return Sample.of([*map(Score, values, weights or [1.0] * len(values))])


def interval(tasks: Sequence[Sample], scale: Scale, bootstrap: Bootstrap) -> Interval:
    drawn = [draw([(task, scale)], bootstrap, i)[0] for i, task in enumerate(tasks)]
    return interval_of_drawn(drawn, bootstrap.tail)


def compare(
    a: Sequence[Sample], b: Sequence[Sample], scale: Scale, bootstrap: Bootstrap
) -> Comparison:
    pairs = []
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        of_a, of_b = draw([(one, scale), (other, scale)], bootstrap, i)
        pairs.append(pair(of_a, of_b, bootstrap, i))
    return compare_pairs(pairs, bootstrap.tail)
