"""Whether a new token ends its sequence: stop tokens, stop strings, lengths.

Knows text and tokens of one sequence; neither pages nor steps.
"""

from dataclasses import dataclass

from server.engine.detokenizer import Detokenizer
from server.engine.sampling_params import SamplingParams
from server.engine.sequence import FinishReason, Sequence


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ends, and at which stop token or string."""

    reason: FinishReason
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Endings:
    """What ends any sequence, beside what its own request asks for."""

    eos_token_ids: frozenset[int]
    max_model_len: int

    def read(self, sequence: Sequence, detokenizer: Detokenizer) -> Ending | None:
        """Take the last of the sequence's tokens up into its text; how it ends, if it does."""
        sampling, token_id = sequence.request.sampling, sequence.tokens[-1]
        stop_token = self._stop_token(sampling, token_id)
        if stop_token is None or sampling.include_stop_str_in_output:
            detokenizer.push(token_id)
        if stop_token is not None:
            return stop_token
        if sequence.num_output < sampling.min_tokens:
            detokenizer.skip_stops()
        elif (match := detokenizer.find_stop()) is not None:
            detokenizer.truncate(match.end)
            return Ending(FinishReason.STOP, match.stop)
        is_full = len(sequence.tokens) >= self.max_model_len
        if is_full or sequence.num_output >= sampling.max_tokens:
            return Ending(FinishReason.LENGTH)
        return None

    def _stop_token(self, sampling: SamplingParams, token_id: int) -> Ending | None:
        if token_id in sampling.stop_token_ids:
            return Ending(FinishReason.STOP, token_id)
        if token_id in self.eos_token_ids and not sampling.ignore_eos:
            return Ending(FinishReason.STOP)
        return None
