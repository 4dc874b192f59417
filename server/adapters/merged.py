"""Merges that requests ask for: foretold, made once by a quiet thread, kept by the host's tier.

A merge is a source of adapter memory like a stored adapter is; its digest is the recipe's. Knows
how to merge as functions.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from adapters_store.adapter import SparseAdapter
from adapters_store.canonical import sha256_of
from adapters_store.errors import MergeTooLarge
from adapters_store.merging.cache import BoundedCache
from adapters_store.merging.cost import Cost
from adapters_store.merging.masking import through_mask
from adapters_store.merging.recipe import Recipe
from server.adapters.sources import Loaded

RECIPES_KNOWN = 4096
ENTRY_BYTES = 8  # an index and a value, as members of a merge are laid out


@dataclass(slots=True)
class MergeCounts:
    """What merges of requests cost since the start; only ever grows."""

    made: Counter[str] = field(default_factory=Counter)  # by method
    failed: int = 0
    seconds: float = 0.0
    foretold_seconds: float = 0.0
    bytes_read: int = 0


@dataclass(frozen=True)
class MergedAdapter:
    """A source: what `recipe` makes, seen through the mask of the adapter `through` if given."""

    recipe: Recipe
    through: str | None
    begin: Callable[[Recipe, str | None], Future[Loaded]]

    @property
    def digest(self) -> str:
        if self.through is None:
            return self.recipe.digest
        return sha256_of({"recipe": self.recipe.digest, "through": self.through})

    def start(self) -> Future[Loaded]:
        return self.begin(self.recipe, self.through)


class MergedAdapters:
    """Sources by recipe. Safe for many threads."""

    def __init__(
        self,
        merge: Callable[[Recipe], SparseAdapter],
        predict: Callable[[Recipe], Cost],
        load: Callable[[str], SparseAdapter],
        pool: Executor,
    ) -> None:
        """`load` reads a stored adapter, whose mask a merge is seen through; `pool` merges."""
        self.counts = MergeCounts()
        self._merge = merge
        self._load = load
        self._pool = pool
        self._predict = predict
        self._foretold: BoundedCache[Cost] = BoundedCache(RECIPES_KNOWN, lambda cost: 1)
        self._members: OrderedDict[str, set[str]] = (
            OrderedDict()
        )  # by merge, the last one asked last
        self._lock = threading.Lock()

    def foretell(self, recipe: Recipe) -> Cost:
        """What the merge costs. Raises AdapterNotFound, BaseMismatch, MergeTooLarge, ..."""
        cost = self._foretold.get(recipe.digest)
        if cost is None:
            cost = self._predict(recipe)
            self._foretold.put(recipe.digest, cost)
        return cost

    def is_cheaper(self, digests: Sequence[str]) -> bool:
        """Whether a sum of these is cheaper to multiply merged than one by one.

        It is where the members' entries take twice the bytes of the result, which is dense at
        most. A merge that would not be allowed is not cheaper. Hangs on the digests alone.
        """
        recipe = Recipe.build("linear", {}, [(digest, 1.0) for digest in sorted(digests)])
        try:
            cost = self.foretell(recipe)
        except MergeTooLarge:
            return False
        return ENTRY_BYTES * cost.entries > 2 * cost.result_bytes

    def source(self, recipe: Recipe, through: str | None = None) -> MergedAdapter:
        """The merge as adapter memory asks for it."""
        merged = MergedAdapter(recipe, through, self._begin)
        with self._lock:
            self._members[merged.digest] = {*recipe.digests, *([through] if through else [])}
            self._members.move_to_end(merged.digest)
            if len(self._members) > RECIPES_KNOWN:
                self._members.popitem(last=False)
        return merged

    def forget(self, member: str) -> set[str]:
        """The digests of merges that `member` is part of, which nobody can ask for any more.

        Of the RECIPES_KNOWN last asked for: older ones are left to the host's budget.
        """
        with self._lock:
            of_it = {merge for merge, members in self._members.items() if member in members}
            for merge in of_it:
                del self._members[merge]
            return of_it

    def _begin(self, recipe: Recipe, through: str | None) -> Future[Loaded]:
        return self._pool.submit(self._make, recipe, through)

    def _make(self, recipe: Recipe, through: str | None) -> SparseAdapter:
        started = time.perf_counter()
        cost = self.foretell(recipe)
        self.counts.foretold_seconds += cost.seconds
        self.counts.bytes_read += cost.bytes_read
        try:
            merged = self._merge(recipe)
            seen = merged if through is None else through_mask(merged, self._load(through))
        except BaseException:
            self.counts.failed += 1
            raise
        self.counts.made[recipe.method] += 1
        self.counts.seconds += time.perf_counter() - started
        return seen
