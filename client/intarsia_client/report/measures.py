"""How a report shows each metric: its unit, which way is better, and its numbers.

The names, units and directions are those of docs/evaluation.md. Knows no results.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from intarsia_client.errors import UnexpectedAnswer

MINUS = "\u2212"
LARGEST_PLAIN = 1e5  # numbers from here on are shown with an exponent


@dataclass(frozen=True, slots=True)
class Measure:
    unit: str
    higher_is_better: bool
    decimals: int
    is_ratio: bool = False  # apart by factors, as perplexities are

    @property
    def meaning(self) -> str:
        """The unit, where it is not the metric itself, and which way is better."""
        better = "higher is better" if self.higher_is_better else "lower is better"
        return better if self.is_ratio else f"in {self.unit}, {better}"

    def show(self, value: float) -> str:
        if abs(value) >= LARGEST_PLAIN:
            return _signed(f"{value:.1e}".replace("e+", "e"))
        return _signed(f"{value:.{self.decimals}f}")

    def show_delta(self, value: float) -> str:
        shown = self.show(value)
        return f"+{shown}" if value > 0 and shown.strip("0.") else shown

    @property
    def of_row(self) -> str:
        """What a row's score is, where it is not the metric itself: perplexity is of tasks."""
        return "ln " if self.is_ratio else ""

    def even(self, value: float) -> float:
        """`value` where equal steps look alike: of perplexities, the loss."""
        return math.log(value) if self.is_ratio else value

    def merit(self, value: float) -> float:
        """`value`, or its negative where lower is better."""
        return value if self.higher_is_better else -value


def _signed(number: str) -> str:
    """With a true minus, and none before what was rounded to nothing."""
    is_nothing = not number.strip("-0.")
    return number.lstrip("-") if is_nothing else number.replace("-", MINUS)


MEASURES: Mapping[str, Measure] = {
    **{
        name: Measure("percent", True, 1)
        for name in ("rouge_l", "exact_match", "contains", "f1", "accuracy", "accuracy_norm")
    },
    "loss": Measure("nats per token", False, 3),
    "perplexity": Measure("perplexity", False, 2, is_ratio=True),
}


def measure_of(metric: str) -> Measure:
    """Raises UnexpectedAnswer for a metric that only a newer client knows."""
    try:
        return MEASURES[metric]
    except KeyError:
        reason = f"this client does not know the metric {metric!r}"
        raise UnexpectedAnswer("GET /v1/evaluations/{id}", reason) from None


def show_p_value(p_value: float) -> str:
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"
