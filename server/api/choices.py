"""A choice as it grows, and the sums over a request: shared by both generation routes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.logprobs import TokenText, prompt_logprobs
from server.engine.engine import SequenceOutput
from server.engine.sequence import FinishReason, TokenLogprobs


@dataclass(slots=True)
class Choice:
    """Everything that one choice has given so far."""

    index: int
    prompt: Sequence[int]
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_cached: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, output: SequenceOutput) -> None:
        self.text += output.text
        self.token_ids.extend(output.token_ids)
        self.logprobs.extend(output.logprobs)
        self.prompt_logprobs.extend(output.prompt_logprobs)
        self.num_cached = output.num_cached
        self.finish_reason = output.finish_reason
        self.stop_reason = output.stop_reason

    def ending(self) -> dict[str, Any]:
        """`finish_reason` and `stop_reason`, null while it goes on."""
        reason = self.finish_reason and self.finish_reason.value
        return {"finish_reason": reason, "stop_reason": self.stop_reason}

    def shown_prompt_logprobs(self, token_text: TokenText) -> list[dict[str, Any] | None]:
        return prompt_logprobs(self.prompt_logprobs, token_text)


def usage(choices: Iterable[Choice], choices_per_prompt: int) -> dict[str, Any]:
    """Token counts of a request; a prompt counts once, however many choices it has."""
    every = list(choices)
    firsts = every[::choices_per_prompt]
    num_prompt = sum(len(choice.prompt) for choice in firsts)
    num_completion = sum(len(choice.token_ids) for choice in every)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": sum(c.num_cached for c in firsts)},
    }
