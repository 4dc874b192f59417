"""What the scheduler hands to the runner: which tokens of which sequences a step computes."""

from dataclasses import dataclass, replace

from server.adapters.composition import Composition
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Compute tokens `[start, start + num_tokens)` of `sequence` in this step.

    The last of them may be `drafts`: guesses of how the sequence goes on (`speculation.py`), each
    of which counts only if the token that is then chosen for its place is the same.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    drafts: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def known_end(self) -> int:
        """Where the sequence's own tokens end and drafts begin."""
        return self.end - len(self.drafts)

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.tokens[self.start : self.known_end], *self.drafts]

    @property
    def samples(self) -> bool:
        """Whether this chunk reaches the sequence's last token, so that the next one is chosen."""
        return self.known_end == len(self.sequence.tokens) and not self.sequence.samples_nothing

    def with_drafts(self, drafts: tuple[int, ...]) -> "ScheduledSequence":
        """The same, with `drafts` after its own tokens; it has none yet."""
        return replace(self, num_tokens=self.num_tokens + len(drafts), drafts=drafts)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The whole contract between scheduler and runner for one step."""

    entries: tuple[ScheduledSequence, ...]
    fused: Composition | None = None  # what must be in the weights; None: whatever pays

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.entries)
