"""By what an adapter is found: its kinds, base, task and tags, and every piece of its texts.

A piece is one to three characters long. A text that contains a longer one contains its first three,
so an index over pieces finds every substring. What is not of the form that `check_metadata` wants
has no label: it may come from before there was a form.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapters_store.errors import InvalidMetadata
from adapters_store.signatures import SIGNER_KEY

PIECE = 3  # characters
MAX_LABEL = 200  # characters of a task, a tag, a base's name
MAX_DESCRIPTION = 4000
MAX_TAGS = 64
MAX_METADATA_BYTES = 64 << 10  # as JSON: every list shows it
KINDS_OF_VALUE: Mapping[str, tuple[type, ...]] = {
    "task": (str,),
    "description": (str,),
    "licence": (str,),
    "tags": (list, tuple),
    "metrics": (dict,),
    "lineage": (dict, str),
}
LIMITS = {"task": MAX_LABEL, "licence": MAX_LABEL, "tags": MAX_TAGS, "description": MAX_DESCRIPTION}

RECIPE_KEY = "recipe"  # the digest of the recipe by which this server merged a version
SERVER_KEYS = frozenset({RECIPE_KEY, SIGNER_KEY})  # nobody but this server writes these

Label = tuple[str, str]  # (key, value)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise InvalidMetadata unless the fields that mean something have their form, and all of them
    are of a size to be listed."""
    num_bytes = len(json.dumps(dict(metadata)))
    if num_bytes > MAX_METADATA_BYTES:
        reason = f"has {num_bytes} bytes as JSON, more than {MAX_METADATA_BYTES}"
        raise InvalidMetadata(None, reason)
    for field, kinds in KINDS_OF_VALUE.items():
        if metadata.get(field) is not None:
            _check_field(field, metadata[field], kinds)
    for tag in metadata.get("tags") or ():
        if not _is_label(tag):
            raise InvalidMetadata("tags", f"a tag is a text of 1 to {MAX_LABEL} characters")


def labels_of(
    base_name: str, kinds: Iterable[str], metadata: Mapping[str, Any], text: str
) -> set[Label]:
    """All labels of a version whose search text is `text`."""
    found: list[tuple[str, Any]] = [("base", base_name), ("task", metadata.get("task"))]
    found += (("kind", kind) for kind in kinds)
    tags = metadata.get("tags")
    found += (("tag", tag) for tag in (tags if isinstance(tags, list | tuple) else ()))
    named = {(key, plain(value)) for key, value in _labels_only(found)}
    return named | {("text", piece) for size in range(1, PIECE + 1) for piece in _cut(text, size)}


def search_text(name: str, metadata: Mapping[str, Any]) -> str:
    """What a search looks through, folded as `folded` folds what it looks for."""
    texts = (name, metadata.get("task"), metadata.get("description"))
    return folded("\n".join(text for text in texts if isinstance(text, str)))


def folded(text: str) -> str:
    """`text` without the difference of upper and lower case."""
    return plain(text).casefold()


def plain(text: str) -> str:
    """`text` without NUL, which PostgreSQL has no place for."""
    return text.replace("\0", " ")


def pieces(query: str) -> list[str]:
    """The pieces that every text with `query` in it has, the same ones once."""
    return sorted(set(_cut(query, min(PIECE, len(query)))))


def _cut(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))


def _labels_only(pairs: Iterable[tuple[str, Any]]) -> Iterator[Label]:
    return ((key, value) for key, value in pairs if _is_label(value))


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_LABEL


def _check_field(field: str, value: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        expected = {str: "a text", list: "a list", dict: "an object"}
        named = " or ".join(expected[kind] for kind in kinds if kind in expected)
        raise InvalidMetadata(field, f"must be {named}, not {type(value).__name__}")
    assert isinstance(value, str | list | tuple | dict)
    if len(value) > LIMITS.get(field, len(value)):
        raise InvalidMetadata(field, f"has length {len(value)}, more than {LIMITS[field]}")
