"""When fusing pays: ski rental. Deltas are rented step by step; a switch buys.

Costs are bytes of laid-out deltas, predicted and never timed, so that a decision can be told from
what was asked. Bookkeeping alone, without tensors.

A debt is what the weights as they are have cost more than with another composition in them since
the last switch, never less than nothing. Before a step whose cost would bring a debt to the price
of going there and back, weights are switched. Where deltas only ever cost (nothing else is in the
batch), that is at most 2 times what it costs who knows the future. Where a fused composition costs
those who do not want it, so that it pays to go back and forth, it is at most 3 times, which no
policy without knowledge of the future beats (Borodin, Linial, Saks 1992, for two states).
"""

from collections import Counter
from collections.abc import Callable, Mapping

from server.adapters.composition import BASE, Composition

TOKENS_AT_ONCE = 16  # that are multiplied in about the time of one more reading
SWITCH = 50  # of a laid-out byte: its entry's line of memory is read once and written twice

SizeOf = Callable[[str], int]  # bytes of an adapter, laid out, by digest


def step_cost(tokens: Mapping[Composition, int], fused: Composition, size_of: SizeOf) -> float:
    """What a step's deltas cost: so many tokens of each composition, with `fused` in the weights.

    Tokens of other compositions pay for their own adapters and for those of the fused one.
    """
    pairs = Counter[tuple[str, bool]]()
    for composition, count in tokens.items():
        if composition != fused:
            pairs.update(dict.fromkeys(((d, False) for d in composition.digests), count))
            pairs.update(dict.fromkeys(((d, True) for d in fused.digests), count))
    return sum(size_of(d) * (1 + count / TOKENS_AT_ONCE) for (d, _), count in pairs.items())


def switch_cost(composition: Composition, size_of: SizeOf) -> float:
    """What it costs to have a composition in the weights, and later out of them."""
    return SWITCH * float(sum(map(size_of, composition.digests)))


class SkiRental:
    """Which composition is to be in the weights, by debts."""

    def __init__(self) -> None:
        self._debts: dict[Composition, float] = {}  # above 0
        self._now = BASE

    def choose(
        self,
        now: Composition,
        cost: Callable[[Composition], float],
        price: Callable[[Composition], float],
        allowed: set[Composition],
    ) -> Composition:
        """What to compute the next step with, `now` being in the weights.

        `cost` is the step's with a composition in the weights, `price` that of having it there and
        out again. Chosen are those in `allowed`, or the base.
        """
        if now != self._now:  # others have switched
            self._now, self._debts = now, {}
        paid = cost(now)
        candidates = {BASE, *allowed, *self._debts} - {now}
        debts = {c: self._debts.get(c, 0.0) + paid - cost(c) for c in candidates}
        self._debts = {c: debt for c, debt in debts.items() if debt > 0}
        best = self._most_overdue(allowed | {BASE}, price(now), price)
        if best is None:
            return now
        self._now, self._debts = best, {}
        return best

    def _most_overdue(
        self, allowed: set[Composition], own: float, price: Callable[[Composition], float]
    ) -> Composition | None:
        overdue = {c: d - own - price(c) for c, d in self._debts.items() if c in allowed}
        due = {c: over for c, over in overdue.items() if over >= 0}
        return min(due, key=lambda c: (-due[c], c.digest), default=None)
