"""Texts to be scored: prose in pieces of one length, and rows of tasks as chats."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters_store.training.data import Encoder, read_rows

PIECE = 256  # tokens
MAX_PROMPT, MAX_ANSWER = 192, 64  # tokens of a row


def pieces(tokenizer: Any, files: Sequence[Path]) -> Iterator[list[int]]:
    """The files' texts, cut up; what is left at the end of each is left out."""
    for file in files:
        ids = tokenizer.encode(file.read_text(), add_special_tokens=False)
        for first in range(0, len(ids) - PIECE + 1, PIECE):
            yield ids[first : first + PIECE]


def chats(tokenizer: Any, files: Sequence[Path]) -> Iterator[list[int]]:
    """Prompt and target of every row."""
    encoder = Encoder(tokenizer, "chat", MAX_PROMPT, MAX_ANSWER)
    for file in files:
        for row in read_rows(file):
            encoded = encoder(row)
            yield [*encoded.prompt, *encoded.answer]
