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
PENDING_TOKENS = 3  # at most, before or after a token, that are bytes of the same character
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
    searched: int = 0  # characters of `text` that no stop string may end in any more

    @classmethod
    def start(
        cls, decode: Decode, sampling: SamplingParams, prompt: Sequence[int]
    ) -> "Detokenizer":
        context = list(prompt[-CONTEXT_TOKENS - PENDING_TOKENS :])
        detokenizer = cls(decode, sampling, context)
        detokenizer._slide()
        detokenizer.window_read = len(detokenizer._window().rstrip(REPLACEMENT))
        return detokenizer

    def push(self, token_id: int) -> None:
        """Add one output token."""
        self.tokens.append(token_id)
        window = self._window()
        whole = window.rstrip(REPLACEMENT)
        self._read(whole)
        excess = len(self.tokens) - self.window_start - WINDOW_TOKENS
        is_broken = excess > WINDOW_TOKENS  # bytes that no later one makes a character
        if is_broken:
            self._read(self._window(pending=PENDING_TOKENS))
        if is_broken or (excess > 0 and whole == window):
            unread = len(window) - self.window_read
            self._slide()
            self.window_read = max(len(self._window()) - unread, 0)

    def finish(self) -> None:
        """No more tokens come: broken bytes that were held back become U+FFFD."""
        self._read(self._window())

    def find_stop(self) -> StopMatch | None:
        """The first stop string that ends in text come since the last search, or None."""
        found = [(self._find_new(stop), stop) for stop in self.sampling.stop]
        self.searched = len(self.text)
        matches = [(at, stop) for at, stop in found if at >= 0]
        if not matches:
            return None
        at, stop = min(matches)
        return StopMatch(stop, at + len(stop) * self.sampling.include_stop_str_in_output)

    def skip_stops(self) -> None:
        """Let stop strings in the text so far stand."""
        self.searched = len(self.text)

    def truncate(self, end: int) -> None:
        """End the text at `end`."""
        self.text = self.text[:end]

    def take(self, *, final: bool) -> str:
        """Text not given out yet; unless `final`, less an ending that may become a stop string."""
        end = len(self.text) if final else len(self.text) - self._held_characters()
        new = self.text[self.sent : end]
        self.sent = max(self.sent, end)
        return new

    def _find_new(self, stop: str) -> int:
        return self.text.find(stop, max(self.searched - len(stop) + 1, 0))

    def _slide(self) -> None:
        """Begin the window some tokens back, where a character begins if one does nearby.

        Decoders with byte fallback break a whole run of bytes that begins inside a character.
        """
        last = max(len(self.tokens) - CONTEXT_TOKENS, 0)
        for start in range(last, max(last - PENDING_TOKENS, 0) - 1, -1):
            self.window_start = start
            if not self._window().startswith(REPLACEMENT):
                return
        self.window_start = last

    def _window(self, pending: int = 0) -> str:
        """The decoded window, less its last `pending` tokens."""
        tokens = self.tokens[self.window_start : len(self.tokens) - pending]
        return self.decode(tokens, self.sampling.skip_special_tokens)

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
