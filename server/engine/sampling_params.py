"""How a request wants its tokens chosen, and when it ends. Names as in the OpenAI API and vLLM."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.engine.errors import InvalidParameter

MAX_LOGPROBS = 20
MAX_STOPS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Checked on construction: a value out of range raises InvalidParameter that names it."""

    max_tokens: int  # 0 computes the prompt only
    seed: int = 0
    temperature: float = 1.0  # 0 is greedy; ties take the lowest token id
    top_k: int = 0  # 0 or -1: all
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    logprobs: int | None = None  # how many alternatives beside each chosen token
    prompt_logprobs: int | None = None  # the same, beside each prompt token that is scored
    prompt_logprobs_from: int = 1  # index of the first of these; the one before it needs no score

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            _check_range(name, getattr(self, name), low, high)
        if self.repetition_penalty <= 0:
            raise InvalidParameter("repetition_penalty", self.repetition_penalty, "above 0")
        if self.top_p <= 0:
            raise InvalidParameter("top_p", self.top_p, "above 0 and at most 1")
        if self.min_tokens > self.max_tokens:
            raise InvalidParameter("min_tokens", self.min_tokens, "at most max_tokens")
        for value in self.logit_bias.values():
            if not math.isfinite(value):
                raise InvalidParameter("logit_bias", value, "finite")
        if len(self.stop) > MAX_STOPS or not all(self.stop):
            raise InvalidParameter(
                "stop", list(self.stop), f"at most {MAX_STOPS} non-empty strings"
            )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, math.inf),
    ("min_tokens", 0, math.inf),
    ("temperature", 0, 100),
    ("top_k", -1, math.inf),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("repetition_penalty", 0, 100),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs_from", 1, math.inf),
)


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        above = f"at least {low:g}"
        raise InvalidParameter(
            name, value, above if high == math.inf else f"{above} and at most {high:g}"
        )
