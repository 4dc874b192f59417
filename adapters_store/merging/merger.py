"""Merges of stored adapters for whoever asks: predicted, allowed, computed, layers kept for later.

Knows where adapters are read from as a function; nothing of requests and jobs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.errors import AdapterNotFound, BaseMismatch
from adapters_store.merging.cache import BoundedCache, layer_cache
from adapters_store.merging.cost import Cost, CostLimits, predict
from adapters_store.merging.earlier import Earlier
from adapters_store.merging.merge import OnLayer, common_base, merge
from adapters_store.merging.reader import Digests, FileReader, MemoryReader
from adapters_store.merging.recipe import Recipe

ADAPTERS_KNOWN = 1024  # whose layers' digests are remembered, some 10 KiB each


class Stored(NamedTuple):
    """A stored merge, and the recipe that made it."""

    digest: str
    recipe: Recipe


OpenReader = Callable[[str, Digests | None], FileReader]


class Merger:
    """Merges adapters of one base. Safe for many threads."""

    def __init__(
        self, open_reader: OpenReader, base: BaseIdentity, limits: CostLimits, cache_bytes: int
    ) -> None:
        """`open_reader` is given a digest, and those of its layers once they were verified."""
        self._open_reader = open_reader
        self._base = base
        self._limits = limits
        self._layers = layer_cache(cache_bytes)
        self._known: BoundedCache[Digests] = BoundedCache(ADAPTERS_KNOWN, lambda digests: 1)

    def predict(self, recipe: Recipe) -> Cost:
        """What `merge` would cost. Raises what `merge` would before it begins: AdapterNotFound,
        BlobCorrupt, BaseMismatch, MergeTooLarge."""
        with self._readers(recipe.digests) as readers:
            return self._check(recipe, readers)

    def merge(
        self,
        recipe: Recipe,
        on_layer: OnLayer = lambda done, total: None,
        *,
        threads: int = 1,
        earlier: Stored | None = None,
    ) -> SparseAdapter:
        """The adapter that `recipe` makes; see `merging.merge.merge` for what is raised later.

        Layers that `earlier` has already are taken from it.
        """
        with self._readers(recipe.digests) as readers, self._earlier(recipe, earlier) as begun:
            self._check(recipe, readers)
            merged = merge(
                recipe,
                readers,
                on_layer=on_layer,
                threads=threads,
                cache=self._layers,
                earlier=begun,
            )
            for digest, reader in readers.items():
                self._known.put(digest, reader.verify())
            self._known.put(merged.digest, MemoryReader(merged).verify())
        return merged

    def _check(self, recipe: Recipe, readers: Mapping[str, FileReader]) -> Cost:
        for layer, digest in common_base(readers).items():
            known = self._base.layers.get(layer)
            if known is None or known.digest != digest:
                theirs = {r.digest: r.base[layer] for r in readers.values() if layer in r.base}
                ours = known.digest if known else "no such layer"
                raise BaseMismatch(layer, {**theirs, f"the base {self._base.name!r}": ours})
        cost = predict(recipe, readers)
        self._limits.check(cost)
        return cost

    @contextmanager
    def _readers(self, digests: Iterable[str]) -> Iterator[dict[str, FileReader]]:
        with ExitStack() as stack:
            yield {
                digest: stack.enter_context(self._open_reader(digest, self._known.get(digest)))
                for digest in digests
            }

    @contextmanager
    def _earlier(self, recipe: Recipe, stored: Stored | None) -> Iterator[Earlier | None]:
        """What may be taken over; None where the merge or one of its members is gone."""
        if stored is None:
            yield None
            return
        with ExitStack() as stack:
            digests = {stored.digest, *stored.recipe.digests, *recipe.digests}
            try:
                readers = stack.enter_context(self._readers(digests))
            except AdapterNotFound:
                readers = {}
            yield (
                Earlier.of(readers[stored.digest], stored.recipe, recipe, readers)
                if readers
                else None
            )
