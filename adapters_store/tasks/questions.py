"""What a recipe makes, and the hashes that stand in for chance.

Everything random here is the order of sha256 digests, so that the same data gives the same bytes
on every machine and Python. Knows no task.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

SEED = 20240501
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its answer. All questions of one `group` go to the same side of the split.

    Groups of different tasks share one name space: what is said twice (a WordNet synset, say)
    lies on the same side in every task.
    """

    group: str
    prompt: str
    target: str


def digest_number(*parts: object) -> int:
    """A number below 2**64 that looks random but depends on `parts` alone."""
    text = "\x1f".join(map(str, (SEED, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def shuffled(items: Iterable[T], *, salt: str, key: Callable[[T], object] = str) -> list[T]:
    """`items` in an order that looks random but depends on `salt` and their keys alone."""
    return sorted(items, key=lambda item: digest_number(salt, key(item)))


def tidy(text: str) -> str:
    """`text` with single blanks only."""
    return " ".join(text.split())


def same_text(text: str) -> str:
    """The group of texts that differ in case, blanks and punctuation at most."""
    return "text:" + ("".join(filter(str.isalnum, text.casefold())) or text)
