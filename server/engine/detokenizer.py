"""Tokens to text as they come: never half a character, never text that may become a stop string.

A byte-level token can end inside a UTF-8 character; text is held back until the character is whole.
Knows the tokenizer only as a function from token ids to text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.engine.sampling_params import SamplingParams

Decode = Callable[[Sequence[int], bool], str]  # (token ids, skip special tokens) -> text

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet one
CONTEXT_TOKENS = 4  # tokens decoded along, since a first token may lose its leading space
WINDOW_TOKENS = 16  # the window of decoded tokens slides on when it is longer


class StopMatch(NamedTuple):
    """A stop string found: the text ends at `end`."""

    stop: str
    end: int


@dataclass(slots=True)
class Detokenizer:
    """The text of one sequence. `text` grows; `take` gives what may be sent."""

    decode: Decode
    sampling: SamplingParams
    tokens: list[int]  # context from the prompt, then output
    window_start: int = 0  # decoding begins at this token
    window_read: int = 0  # characters of the decoded window that are in `text`, or context
    text: str = ""
    sent: int = 0  # characters already given out

    @classmethod
    def start(
        cls, decode: Decode, sampling: SamplingParams, prompt: Sequence[int]
    ) -> "Detokenizer":
        detokenizer = cls(decode, sampling, list(prompt[-CONTEXT_TOKENS:]))
        detokenizer.window_read = len(detokenizer._window().rstrip(REPLACEMENT))
        return detokenizer

    def push(self, token_id: int) -> None:
        """Add one output token."""
        self.tokens.append(token_id)
        window = self._window()
        whole = window.rstrip(REPLACEMENT)
        self._read(whole)
        if whole == window and len(self.tokens) - self.window_start > WINDOW_TOKENS:
            self.window_start = len(self.tokens) - CONTEXT_TOKENS
            self.window_read = len(self._window())

    def finish(self) -> None:
        """No more tokens come: broken bytes that were held back become U+FFFD."""
        self._read(self._window())

    def find_stop(self) -> StopMatch | None:
        """The first stop string in the text, or None."""
        found = [(self.text.find(stop), stop) for stop in self.sampling.stop]
        matches = [(at, stop) for at, stop in found if at >= 0]
        if not matches:
            return None
        at, stop = min(matches)
        return StopMatch(stop, at + len(stop) * self.sampling.include_stop_str_in_output)

    def truncate(self, end: int) -> None:
        """End the text at `end`."""
        self.text = self.text[:end]

    def take(self, *, final: bool) -> str:
        """Text not given out yet; unless `final`, less an ending that may become a stop string."""
        end = len(self.text) if final else len(self.text) - self._held_characters()
        new = self.text[self.sent : end]
        self.sent = max(self.sent, end)
        return new

    def _window(self) -> str:
        return self.decode(self.tokens[self.window_start :], self.sampling.skip_special_tokens)

    def _read(self, window: str) -> None:
        self.text += window[self.window_read :]
        self.window_read = max(self.window_read, len(window))

    def _held_characters(self) -> int:
        """Length of the longest ending that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self.sampling.stop), default=0)
        for length in range(min(longest, len(self.text) - self.sent), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self.sampling.stop):
                return length
        return 0
