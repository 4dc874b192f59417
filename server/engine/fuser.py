"""Before a step: the right composition in the weights, its adapters kept where they are meanwhile.

What a batch must have fused is fused. Otherwise requests in auto mode may have theirs fused where
it pays. Everything here runs on the engine's thread but `refusal` and what metrics read.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from server.adapters.claims import AdapterLease
from server.adapters.composition import BASE, Composition
from server.adapters.delta import ResidentAdapter
from server.adapters.errors import NoRoomToFuse, RoundedAway
from server.adapters.fused import Fused, FusedWeights
from server.adapters.journals import JOURNAL
from server.engine.renting import SkiRental, step_cost, switch_cost
from server.engine.scheduled import ScheduledBatch
from server.engine.sequence import Mode

WORST_ROUNDING = 0.01  # of a change, that weights of 16 bits may lose where nobody asked for it
ANSWERS_KNOWN = 1024
REQUEST, CHEAPER, RELEASED = "request", "cheaper", "released"  # reasons of a switch
FAILED, ROUNDED, NO_ROOM = "failed", "rounded", "no_room"  # of one that did not come about

logger = logging.getLogger(__name__)


class Fuser:
    """`resident` gives leased adapters; `keep` leases them once more while they are fused, with so
    many bytes for each one's journal, or raises NoRoomToFuse."""

    def __init__(
        self,
        weights: FusedWeights,
        resident: Callable[[str], ResidentAdapter],
        keep: Callable[[Mapping[str, int]], AdapterLease],
    ) -> None:
        self.switches = Counter[str]()  # by reason
        self._weights, self._resident, self._keep = weights, resident, keep
        self._renting = SkiRental()
        self._sizes: dict[str, int] = {}  # of adapters that auto mode thinks of
        self._leases: list[AdapterLease] = []  # of all that may be in the weights
        self._crowded_out = set[Composition]()  # by what is fused now
        self._can_fuse = lru_cache(ANSWERS_KNOWN)(lambda c: self.refusal(c) is None)

    @property
    def now(self) -> Composition:
        """What is in the weights."""
        return self._weights.now.composition

    @property
    def journal_bytes_held(self) -> int:
        """What leads back to the base has so many bytes just now."""
        return self._weights.num_bytes

    def journal_bytes(self, entries: Mapping[str, int]) -> int:
        """Room for the journal of an adapter that changes so many `entries` of each layer."""
        return self._weights.journal_bytes(entries)

    def refusal(self, composition: Composition) -> str | None:
        """Why a composition of leased adapters cannot be fused; None if it can be."""
        return self._weights.refusal(composition, self._members(composition))

    def prepare(self, batch: ScheduledBatch) -> Fused:
        """Have in the weights what `batch` needs.

        Raises what keeps a composition out that it must have; nothing is fused then. What is fused
        only since it pays stays out silently, but counted.
        """
        if batch.fused is not None:
            self._switch(batch.fused, REQUEST)
        else:
            self._switch_if_cheaper(batch)
        return self._weights.now

    def undo(self) -> Fused:
        """Have the base in the weights; raises, and is to be tried again, if that fails."""
        self._weights.undo()
        self._release_all_but(0)
        return self._weights.now

    def let_go(self, digest: str) -> None:
        """Undo if this adapter is fused: somebody wants it gone, or its or its journal's room."""
        is_left = self._leases and self.now == BASE  # by an undo that failed
        if is_left or digest.removeprefix(JOURNAL) in self.now.digests:
            self.switches[RELEASED] += 1
            try:
                self.undo()
            except Exception:  # the next step tries again, and fails if it cannot
                logger.exception("%s could not be taken out of the weights", digest)

    def _switch(self, wanted: Composition, reason: str, worst: float | None = None) -> None:
        former = self.now
        if wanted == BASE:
            self.undo()
        elif wanted != former:
            self._fuse(wanted, worst)
        if wanted != former:
            self.switches[reason] += 1

    def _fuse(self, wanted: Composition, worst: float | None) -> None:
        """What was fused before keeps its lease until its journal is gone."""
        members = self._members(wanted)
        try:
            self._leases.append(self._keep(self._journals(members)))
            self._weights.switch(wanted, members, worst)
        except BaseException as error:
            self.switches[_reason_of(error)] += 1
            if worst is None or self.now == BASE or not isinstance(error, NoRoomToFuse):
                self.undo()
            else:  # nothing was written, and what is fused still pays
                self._crowded_out.add(wanted)
            raise
        self._release_all_but(1)

    def _journals(self, members: Sequence[tuple[ResidentAdapter, float]]) -> Mapping[str, int]:
        return {adapter.digest: self.journal_bytes(adapter.entries) for adapter, _ in members}

    def _release_all_but(self, last: int) -> None:
        self._crowded_out.clear()
        while len(self._leases) > last:
            self._leases.pop(0).release()

    def _members(self, composition: Composition) -> list[tuple[ResidentAdapter, float]]:
        return [(self._resident(digest), c) for digest, c in composition.members]

    # What pays

    def _switch_if_cheaper(self, batch: ScheduledBatch) -> None:
        wanted = self._cheapest(batch)
        try:
            self._switch(wanted, CHEAPER, WORST_ROUNDING)
        except (RoundedAway, NoRoomToFuse) as error:
            logger.info("%s stays out of the weights: %s", wanted.digest, error)
        except Exception:
            logger.exception("%s could not be fused", wanted.digest)
            self.undo()

    def _cheapest(self, batch: ScheduledBatch) -> Composition:
        tokens, asking = _tokens_of(batch)
        if not asking and self.now == BASE:
            return BASE
        self._note_sizes([*tokens, self.now])
        return self._renting.choose(
            self.now,
            lambda composition: step_cost(tokens, composition, self._sizes.__getitem__),
            lambda composition: switch_cost(composition, self._sizes.__getitem__),
            {c for c in asking - self._crowded_out if self._can_fuse(c)},
        )

    def _note_sizes(self, compositions: Sequence[Composition]) -> None:
        """Of what is resident now; debts of what was may last longer than that."""
        if len(self._sizes) > ANSWERS_KNOWN:
            self._sizes, self._renting = {}, SkiRental()
        for composition in compositions:
            for digest in composition.digests:
                if digest not in self._sizes:
                    self._sizes[digest] = self._resident(digest).num_bytes


def _reason_of(error: BaseException) -> str:
    match error:
        case RoundedAway():
            return ROUNDED
        case NoRoomToFuse():
            return NO_ROOM
    return FAILED


def _tokens_of(batch: ScheduledBatch) -> tuple[Counter[Composition], set[Composition]]:
    """Tokens of a step by composition, and the compositions that auto mode may fuse."""
    tokens, asking = Counter[Composition](), set[Composition]()
    for entry in batch.entries:
        for length, composition in entry.sequence.composition_runs(entry.start, entry.end):
            tokens[composition] += length
            if entry.sequence.request.mode is Mode.AUTO and composition != BASE:
                asking.add(composition)
    return tokens, asking
