"""Log-probabilities in the shapes of the OpenAI API and of vLLM's `prompt_logprobs`."""

from collections.abc import Callable, Sequence
from typing import Any

from server.engine.sequence import TokenLogprobs

TokenText = Callable[[int], str]


def completion_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    token_text: TokenText,
    offset: int,
) -> dict[str, Any]:
    """`logprobs` of a completion choice; `entries` is None for a prompt's first token.

    `offset` is where the first token's text starts in the choice's text.
    """
    texts = [token_text(token_id) for token_id in token_ids]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return {
        "text_offset": offsets[: len(texts)],
        "token_logprobs": [entry and entry.logprob for entry in entries],
        "tokens": texts,
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
