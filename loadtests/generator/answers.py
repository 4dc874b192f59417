"""One streamed answer, read line by line: when tokens came, how many, and whether it was whole.

No HTTP and no clock: lines and times are given. Knows the stream of `/v1/completions` alone.
"""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

DATA = b"data:"


@dataclass
class Answer:
    """Times are seconds of the clock that `read` is given; `error` is None for a whole answer."""

    sent_s: float
    prompt_tokens: int  # as asked
    asked_tokens: int
    times_s: list[float] = field(default_factory=list)  # of chunks with text
    tokens: int = 0  # as the server counts them
    last_s: float = 0.0  # of the last line
    done: bool = False
    error: str | None = None

    def read(self, line: bytes, now_s: float) -> None:
        """Take one line of the stream; lines that carry no data are none of ours."""
        if not line.startswith(DATA):
            return
        self.last_s = now_s
        text = line[len(DATA) :].strip()
        if text == b"[DONE]":
            self.done = True
        else:
            self._chunk(json.loads(text), now_s)

    def end(self) -> None:
        """No more lines: an answer that is not what was asked for is a failure, however fast."""
        if self.error is not None:
            return
        if not self.done:
            self.error = "cut stream"
        elif self.tokens != self.asked_tokens:
            self.error = f"{self.tokens} tokens, not {self.asked_tokens}"

    def _chunk(self, chunk: dict[str, Any], now_s: float) -> None:
        if "error" in chunk:
            self.error = "error in stream"
        if any(choice.get("text") for choice in chunk.get("choices", ())):
            self.times_s.append(now_s)
        self.tokens = (chunk.get("usage") or {}).get("completion_tokens", self.tokens)

    @property
    def first_token_ms(self) -> float:
        """Of a whole answer; tokens without text came by the last line at the latest."""
        first = self.times_s[0] if self.times_s else self.last_s
        return 1e3 * (first - self.sent_s)

    @property
    def total_ms(self) -> float:
        return 1e3 * (self.last_s - self.sent_s)

    @property
    def gaps_ms(self) -> list[float]:
        """Between neighbouring chunks with text."""
        return [1e3 * (after - before) for before, after in pairwise(self.times_s)]

    def to_json(self, start_s: float) -> dict[str, Any]:
        """Times in ms, `sent_ms` since the start of the whole run."""
        return {
            "sent_ms": round(1e3 * (self.sent_s - start_s), 2),
            "first_token_ms": round(self.first_token_ms, 2),
            "total_ms": round(self.total_ms, 2),
            "gaps_ms": [round(gap, 2) for gap in self.gaps_ms],
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "error": self.error,
        }
