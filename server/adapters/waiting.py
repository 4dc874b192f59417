"""Claims in line: who is served next when the device has room, and who may pass whom.

First come, first served among those that are loaded to the host. While the first one waits for
room, those that need none (all of theirs is resident) may pass it, `MAX_PASSES` times; then nobody
does until it is served. Background claims stand behind all others. Called under the lock of the
device's memory.
"""

from bisect import insort
from collections.abc import Callable, Sequence
from itertools import count

from server.adapters.claims import Claim
from server.adapters.errors import LeaseQueueFull
from server.adapters.sources import Source

MAX_PASSES = 64


class WaitingClaims:
    """Every claim that is not settled; in line are those that wait for nothing but room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = count()
        self._claims: set[Claim] = set()
        self._line: list[Claim] = []  # oldest first
        self._is_serving = False  # further down this thread's stack
        self._is_to_serve = False

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, claim: Claim) -> bool:
        return claim in self._claims

    @property
    def is_crowded(self) -> bool:
        """Whether somebody waits for room who is not in the background."""
        return bool(self._line) and not self._line[0].is_background

    @property
    def is_in_line(self) -> bool:
        """Whether anybody waits for room, in the background or not."""
        return bool(self._line)

    def add(self, sources: Sequence[Source], *, hold: bool, is_background: bool = False) -> Claim:
        """A new claim, not yet in line. Raises LeaseQueueFull."""
        if len(self._claims) >= self._limit:
            raise LeaseQueueFull(self._limit)
        claim = Claim(next(self._numbers), sources, hold, is_background)
        self._claims.add(claim)
        return claim

    def line_up(self, claim: Claim) -> None:
        """Put a claim where its age belongs."""
        insort(self._line, claim, key=lambda waiting: waiting.rank)

    def step_out(self, claim: Claim) -> None:
        """Take a claim out of line, to fetch what it has lost."""
        self._line.remove(claim)

    def forget(self, claim: Claim) -> None:
        """A claim is settled, or given up."""
        self._claims.discard(claim)
        claim.fetched.clear()  # its future keeps the claim
        if claim in self._line:
            self._line.remove(claim)

    def drop_fetched(self) -> None:
        """Only the first in line keeps what it fetched: the host's budget says what of the others'
        is still there when their turn comes."""
        for behind in self._line[1:]:
            behind.fetched.clear()

    def num_of(self, digest: str) -> int:
        """Claims that want this adapter."""
        return sum(digest in claim.digests for claim in self._claims)

    def serve(self, serve: Callable[[Claim], bool], needs_no_room: Callable[[Claim], bool]) -> None:
        """Have claims served for whom there is room; `serve` says whether there was.

        Serving one may give or take room, and ask for this anew: it begins anew only here, or a
        long line would be a deep recursion.
        """
        self._is_to_serve = True
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while self._is_to_serve:
                self._is_to_serve = False
                self._serve_line(serve, needs_no_room)
        finally:
            self._is_serving = False

    def _serve_line(
        self, serve: Callable[[Claim], bool], needs_no_room: Callable[[Claim], bool]
    ) -> None:
        """Until what was found out about the line no longer holds."""
        blocked: Claim | None = None
        for claim in list(self._line):
            if self._is_to_serve or (blocked is not None and blocked.passes >= MAX_PASSES):
                break
            if blocked is None:
                blocked = None if serve(claim) else claim
            elif needs_no_room(claim):
                blocked.passes += serve(claim)

    def check_integrity(self) -> None:
        """Raise AssertionError unless whoever is in line is known, in order of age."""
        assert self._claims >= set(self._line), "a claim is in line that is not known"
        ranks = [claim.rank for claim in self._line]
        assert ranks == sorted(ranks), "the line is out of order"
