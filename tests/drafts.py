"""Adapters to publish in a registry, which never looks at their files."""

from collections.abc import Mapping
from typing import Any

from adapters_store.registry import AdapterDraft

METADATA = {"task": "sql", "nested": [1, None, {"é": 1.5}]}


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def draft(
    name: str = "sql",
    number: int = 1,
    metadata: Mapping[str, Any] = METADATA,
    kinds: tuple[str, ...] = ("bias", "element"),
    base_name: str = "tiny-base",
) -> AdapterDraft:
    """The draft of adapter `number`: other numbers, other digests."""
    return AdapterDraft(
        name=name,
        digest=digest(number),
        base_name=base_name,
        kinds=kinds,
        num_layers=2,
        nnz=7,
        num_bytes=99,
        metadata=metadata,
    )
