"""The room of journals: device bytes that are had before a composition is written into the weights.

A journal is what leads from fused weights back to the base's. Each adapter's share has a name of
its own, `journal:<digest>`, so that it is leased like an adapter is: by requests that are to be
fused, from their start, beside their adapters; and by the weights, while they are written. Idle
ones are nothing, and go at once. Knows bytes alone; what a journal holds is for `fused.py` to say.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapters_store.adapter import BlockDelta, ElementDelta, SparseAdapter

JOURNAL = "journal:"


@dataclass(frozen=True, slots=True)
class JournalRoom:
    """One adapter's share of a journal, as a tier of memory holds it."""

    device_bytes: int

    @property
    def num_bytes(self) -> int:
        """In the host's memory there is nothing of it."""
        return 0


def journal_id(digest: str) -> str:
    """What the room of an adapter's journal is known by in the tiers of memory."""
    return JOURNAL + digest


def is_journal(digest: str) -> bool:
    return digest.startswith(JOURNAL)


def num_adapters(digests: Iterable[str]) -> int:
    """How many of `digests` are no journals."""
    return sum(not is_journal(digest) for digest in digests)


def changed_entries(adapter: SparseAdapter) -> Mapping[str, int]:
    """How many numbers of each layer `adapter` changes one by one; products change none so."""
    counts = Counter[str]()
    for delta in adapter.deltas:
        if isinstance(delta, ElementDelta | BlockDelta):
            counts[delta.layer] += delta.values.numel()
    return counts
