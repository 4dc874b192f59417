"""Lists of sequences by rank: the urgent before the less urgent, within a priority by arrival.

Bookkeeping alone, without tensors.
"""

from bisect import bisect_left, insort

from server.engine.sequence import Sequence


def put(sequences: list[Sequence], sequence: Sequence) -> None:
    """Add one where its rank belongs."""
    insort(sequences, sequence, key=lambda each: each.rank)


def first_of(sequences: list[Sequence], priority: int) -> int:
    """Where those begin that are no more urgent than `priority`."""
    return bisect_left(sequences, priority, key=lambda each: each.priority)


def of_priority(sequences: list[Sequence], priority: int) -> list[Sequence]:
    """Those of just that priority."""
    return sequences[first_of(sequences, priority) : first_of(sequences, priority + 1)]
