"""Log-probabilities in the shapes of the OpenAI API and of vLLM's `prompt_logprobs`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from server.engine.sequence import TokenLogprobs
from server.model.text import TextCodec

TokenText = Callable[[int], str]

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet one
CHARACTER_TOKENS = 4  # bytes of the longest character, so tokens that it can be spread over


class TextOffsets:
    """Where each token's text begins in a text that grows; parts of one character begin as one."""

    def __init__(self, codec: TextCodec, start: int = 0) -> None:
        self._codec = codec
        self._read = start  # characters of tokens that are not pending
        self._pending: list[int] = []  # tokens that end inside a character
        self._whole = 0  # characters of these

    @property
    def end(self) -> int:
        """Where the next token's text begins."""
        return self._read + self._whole

    def take(self, token_ids: Iterable[int]) -> list[int]:
        """Where the next tokens begin."""
        return [self._take(token_id) for token_id in token_ids]

    def _take(self, token_id: int) -> int:
        begins = self.end
        self._pending.append(token_id)
        text = self._text()
        self._whole = len(text.rstrip(REPLACEMENT))
        if self._whole == len(text) or len(self._pending) == CHARACTER_TOKENS:
            self._read, self._pending, self._whole = self._read + len(text), [], 0
        return begins

    def _text(self) -> str:
        if len(self._pending) == 1:
            return self._codec.token_text(self._pending[0])  # kept from the last time
        return self._codec.inner_text(self._pending)


def prompt_offsets(token_ids: Sequence[int], text: str, codec: TextCodec) -> list[int]:
    """Where a prompt's tokens begin in `text`; those that the tokenizer put before it, at 0."""
    offsets = TextOffsets(codec)
    begins = offsets.take(token_ids)
    added = offsets.end - len(text)
    return [max(0, offset - added) for offset in begins]


def completion_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    token_text: TokenText,
    offsets: list[int],
) -> dict[str, Any]:
    """`logprobs` of a completion choice; `entries` is None for a prompt's first token."""
    return {
        "text_offset": offsets,
        "token_logprobs": [entry and entry.logprob for entry in entries],
        "tokens": [token_text(token_id) for token_id in token_ids],
        "top_logprobs": [entry and _top_by_text(entry, token_text) for entry in entries],
    }


def chat_logprobs(entries: Sequence[TokenLogprobs], token_text: TokenText) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    return {"content": [_chat_entry(entry, token_text) for entry in entries]}


def prompt_logprobs(
    entries: Sequence[TokenLogprobs], token_text: TokenText
) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: one item per prompt token, None for the first."""
    return [None, *(_ranked(entry, token_text) for entry in entries)]


def _with_chosen(entry: TokenLogprobs) -> list[tuple[int, float]]:
    """The most likely tokens, and the chosen one where it is not among them."""
    chosen = (entry.token_id, entry.logprob)
    return [*entry.top, *([] if chosen[0] in dict(entry.top) else [chosen])]


def _top_by_text(entry: TokenLogprobs, token_text: TokenText) -> dict[str, float]:
    """Different tokens may have one text: the likeliest, which comes first, stays."""
    top: dict[str, float] = {}
    for token_id, logprob in _with_chosen(entry):
        top.setdefault(token_text(token_id), logprob)
    return top


def _chat_entry(entry: TokenLogprobs, token_text: TokenText) -> dict[str, Any]:
    top = [_chat_token(token_id, logprob, token_text) for token_id, logprob in entry.top]
    return {**_chat_token(entry.token_id, entry.logprob, token_text), "top_logprobs": top}


def _chat_token(token_id: int, logprob: float, token_text: TokenText) -> dict[str, Any]:
    text = token_text(token_id)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _ranked(entry: TokenLogprobs, token_text: TokenText) -> dict[str, Any]:
    ranks = {token_id: rank for rank, (token_id, _) in enumerate(entry.top, start=1)}
    return {
        str(token_id): {
            "logprob": logprob,
            "rank": ranks.get(token_id, entry.rank),
            "decoded_token": token_text(token_id),
        }
        for token_id, logprob in _with_chosen(entry)
    }
