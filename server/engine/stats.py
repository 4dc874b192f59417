"""What the engine counts, and a snapshot of it for metrics: plain numbers, no way back in."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges as they are now, counters since the start."""

    num_running: int
    num_waiting: int
    pages_held: int
    pages_total: int
    pages_lent: int  # of these, pages whose memory adapters have
    preemptions: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int  # prompt tokens looked up
    prefix_hits: int  # prompt tokens found
    draft_tokens: int  # guesses that were computed
    accepted_tokens: int  # of these, those that were right
    finished: Mapping[str, int]  # by finish reason
    running_adapters: tuple[str, ...]  # names of adapters in use by running requests
    waiting_adapters: tuple[str, ...]


@dataclass(slots=True)
class SchedulerCounts:
    """What happened since the start; only ever grows."""

    preemptions: int = 0
    prompt_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # prompt tokens found there
    draft_tokens: int = 0  # guesses that were computed
    accepted_tokens: int = 0  # of these, those that are now their sequence's tokens

    def add_prompt(self, num_tokens: int, num_cached: int) -> None:
        """A prompt is computed for the first time, but for what was found."""
        self.prompt_tokens += num_tokens
        self.prefix_queries += num_tokens
        self.prefix_hits += num_cached

    def add_drafts(self, num_tokens: int, num_accepted: int) -> None:
        """Guesses were computed; so many were right."""
        self.draft_tokens += num_tokens
        self.accepted_tokens += num_accepted
