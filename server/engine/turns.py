"""Whose turn it is to be in the weights, among the compositions of sequences in fused mode.

One at a time: for QUANTUM steps, then the next that waits, in the order in which they came. So
while K of them have sequences running, each waits for (K - 1) * QUANTUM steps of others at most.
Bookkeeping alone, without tensors.
"""

from collections.abc import Iterable

from server.adapters.composition import Composition
from server.engine.sequence import Sequence

QUANTUM = 16  # steps


class Turns:
    """The line of compositions; the first one is `current`."""

    def __init__(self, quantum: int = QUANTUM) -> None:
        self._quantum = quantum
        self._line: list[Composition] = []
        self._steps = 0  # of the first one's turn

    @property
    def current(self) -> Composition | None:
        """What the step has in the weights; None while no sequence asks for anything."""
        return self._line[0] if self._line else None

    def begin(self, wanted: Iterable[Composition]) -> None:
        """A step begins, `wanted` being what running sequences ask for."""
        before, asking = self.current, dict.fromkeys(wanted)
        self._line = [known for known in self._line if known in asking]
        self._line += [new for new in asking if new not in self._line]
        if self.current == before and self._steps >= self._quantum and len(self._line) > 1:
            self._line.append(self._line.pop(0))
        self._steps = self._steps + 1 if self.current == before else 1

    def include(self, sequence: Sequence) -> bool:
        """Whether the step may compute `sequence`; the first that asks has the turn if none did."""
        if not sequence.is_fused:
            return True
        if not self._line:
            self._line, self._steps = [sequence.request.composition], 1
        return sequence.request.composition == self._line[0]
