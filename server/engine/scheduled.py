"""What the scheduler hands to the runner: which tokens of which sequences a step computes."""

from dataclasses import dataclass

from server.adapters.composition import Composition
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Compute tokens `[start, start + num_tokens)` of `sequence` in this step."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether this chunk reaches the sequence's last token, so that the next one is chosen."""
        return self.end == len(self.sequence.tokens) and not self.sequence.samples_nothing


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The whole contract between scheduler and runner for one step."""

    entries: tuple[ScheduledSequence, ...]
    fused: Composition | None = None  # what must be in the weights; None: whatever pays

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.entries)
