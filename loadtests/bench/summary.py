"""Numbers of one round, from the generator's answers: rates, percentiles, failures. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Summary:
    """Of whole answers alone: what failed is counted, and neither its tokens nor its times are."""

    requests: int
    failures: dict[str, int]  # by what went wrong
    seconds: float  # from the first request sent to the last answer's end
    tokens_per_s: float  # of answers
    prompt_tokens_per_s: float
    requests_per_s: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    generator_cpu_s: float  # per 1,000 tokens of answers

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def summarize(result: Mapping[str, Any]) -> Summary:
    """Of what the generator wrote to `answers.json`. Percentiles of nothing are NaN."""
    answers = result["answers"]
    whole = [answer for answer in answers if answer["error"] is None]
    ends = [answer["sent_ms"] + answer["total_ms"] for answer in whole]
    seconds = (max(ends) - min(answer["sent_ms"] for answer in answers)) / 1e3 if ends else 0.0
    tokens = sum(answer["tokens"] for answer in whole)
    firsts = [answer["first_token_ms"] for answer in whole]
    gaps = [gap for answer in whole for gap in answer["gaps_ms"]]
    return Summary(
        requests=len(answers),
        failures=dict(Counter(each["error"] for each in answers if each["error"] is not None)),
        seconds=seconds,
        tokens_per_s=_rate(tokens, seconds),
        prompt_tokens_per_s=_rate(sum(answer["prompt_tokens"] for answer in whole), seconds),
        requests_per_s=_rate(len(whole), seconds),
        first_token_p50_ms=percentile(firsts, 50),
        first_token_p95_ms=percentile(firsts, 95),
        gap_p50_ms=percentile(gaps, 50),
        gap_p99_ms=percentile(gaps, 99),
        generator_cpu_s=_rate(1e3 * result["cpu_s"], tokens),
    )


def percentile(values: Iterable[float], percent: float) -> float:
    """Between neighbours by their distance; NaN of nothing."""
    given = list(values)
    return float(np.percentile(given, percent)) if given else float("nan")


def _rate(count: float, per: float) -> float:
    return count / per if per else 0.0
