"""The tokens that a step still takes. Bookkeeping alone, without tensors."""

from dataclasses import dataclass

from server.engine.sequence import Sequence


@dataclass(slots=True)
class Room:
    """What is left of a step: for the next tokens of streams, and for tokens of prompts."""

    streams: int
    prompts: int

    def take(self, sequence: Sequence) -> int:
        """How many uncomputed tokens of `sequence` the step computes; they are taken."""
        if sequence.num_uncomputed == 1 and self.streams > 0:
            self.streams -= 1
            return 1
        num_tokens = min(sequence.num_uncomputed, self.prompts)
        self.prompts -= num_tokens
        return num_tokens
