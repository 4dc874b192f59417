"""Whole adapters merged by a recipe, layer by layer: one layer of each is in memory at a time.

Owns the order of things, what a merged layer depends on (its key in a cache) and the lineage that
goes with the result. The arithmetic of a layer is in `layer.py`; where adapters lie is for readers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

from adapters_store.adapter import SparseAdapter, WeightDelta
from adapters_store.canonical import fp32_hex, sha256_of
from adapters_store.errors import BaseMismatch
from adapters_store.merging.cache import LayerCache
from adapters_store.merging.earlier import Earlier
from adapters_store.merging.layer import (
    LayerInput,
    MemberStatistics,
    merge_bias,
    merge_layer,
    needs_statistics,
    statistics,
)
from adapters_store.merging.reader import AdapterReader, Deltas, bias_of, weight_of
from adapters_store.merging.recipe import Recipe

LINEAGE = "lineage"  # the note that holds the recipe
Readers = Mapping[str, AdapterReader]  # by digest
OnLayer = Callable[[int, int], None]  # (layers done, layers in all); what it raises ends the merge


def merge(
    recipe: Recipe,
    readers: Readers,
    *,
    on_layer: OnLayer = lambda done, total: None,
    threads: int = 1,
    cache: LayerCache | None = None,
    earlier: Earlier | None = None,
) -> SparseAdapter:
    """The adapter that `recipe` makes of what `readers` read, one for each of its digests.

    `threads` layers are in work at once; one thread is the caller's own. Raises BaseMismatch,
    BlobCorrupt, AdapterRefused, InvalidMerge. The result's digest depends on the recipe alone, as
    far as the method's row promises: neither `cache` nor `earlier` change a bit of it.
    """
    base = common_base(readers)
    work = _Work(recipe, readers, _statistics(recipe, readers), cache, earlier)
    merged = _each(work.layer, sorted(base), on_layer, threads)
    for reader in (*readers.values(), *([earlier.reader] if earlier else [])):
        reader.verify()
    deltas = sorted((d for layer in merged for d in layer), key=lambda d: (d.layer, d.kind))
    touched = {delta.layer: base[delta.layer] for delta in deltas}
    base_name = readers[recipe.digests[0]].base_name
    return SparseAdapter(base_name, touched, tuple(deltas), {LINEAGE: recipe.json()})


def common_base(readers: Readers) -> dict[str, str]:
    """Layer -> digest of the base weight, of all members; BaseMismatch if two disagree."""
    base: dict[str, str] = {}
    for reader in readers.values():
        for layer, digest in reader.base.items():
            if base.setdefault(layer, digest) != digest:
                found = {r.digest: r.base[layer] for r in readers.values() if layer in r.base}
                raise BaseMismatch(layer, found)
    return base


def _statistics(recipe: Recipe, readers: Readers) -> dict[str, MemberStatistics]:
    """What the method must know of whole members, by digest."""
    if not needs_statistics(recipe.parameters):
        return {}
    return {
        digest: statistics(recipe.parameters, partial(_weights, readers[digest]))
        for digest in recipe.digests
    }


def _weights(reader: AdapterReader) -> Iterator[WeightDelta]:
    """An adapter's changes of weights, one layer at a time."""
    for layer in reader.layers:
        weight = weight_of(reader.deltas(layer))
        if weight is not None:
            yield weight


def _each(
    work: Callable[[str], Deltas], layers: Sequence[str], on_layer: OnLayer, threads: int
) -> list[Deltas]:
    """What `work` makes of every layer, in any order."""
    if threads == 1:
        return list(_told(map(work, layers), on_layer, len(layers)))
    with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
        futures = [pool.submit(work, layer) for layer in layers]
        try:
            done = (future.result() for future in as_completed(futures))
            return list(_told(done, on_layer, len(layers)))
        finally:
            pool.shutdown(cancel_futures=True)


def _told(merged: Iterator[Deltas], on_layer: OnLayer, total: int) -> Iterator[Deltas]:
    for done, layer in enumerate(merged, start=1):
        on_layer(done, total)
        yield layer


class _Members:
    """The members' deltas in one layer, each read once, and only if it must be."""

    def __init__(self, readers: Readers, layer: str) -> None:
        self._readers, self._layer = readers, layer
        self._read: dict[str, Deltas] = {}

    def deltas(self, digest: str) -> Deltas:
        if digest not in self._read:
            self._read[digest] = self._readers[digest].deltas(self._layer)
        return self._read[digest]

    def digests(self, digest: str) -> tuple[str, ...]:
        known = self._readers[digest].digests(self._layer)
        return tuple(d.digest for d in self.deltas(digest)) if known is None else known


@dataclass(frozen=True)
class _Work:
    """Everything that merging one layer needs."""

    recipe: Recipe
    readers: Readers
    statistics: Mapping[str, MemberStatistics]
    cache: LayerCache | None
    earlier: Earlier | None

    def layer(self, layer: str) -> Deltas:
        """The merged deltas of `layer`."""
        kept = self.earlier.deltas(layer) if self.earlier else None
        return self._cached(layer) if kept is None else kept

    def _cached(self, layer: str) -> Deltas:
        members = _Members(self.readers, layer)
        if self.cache is None:
            return self._merge(layer, members)
        key = self._key(layer, members)
        merged = self.cache.get(key)
        if merged is None:
            merged = self._merge(layer, members)
            self.cache.put(key, merged)
        return merged

    def _merge(self, layer: str, members: "_Members") -> Deltas:
        read = {digest: members.deltas(digest) for digest in self.readers}
        weights = {digest: weight_of(deltas) for digest, deltas in read.items()}
        biases = {digest: bias_of(deltas) for digest, deltas in read.items()}
        rule = partial(merge_layer, statistics=self.statistics)
        merged = (self._apply(rule, layer, weights), self._apply(merge_bias, layer, biases))
        return tuple(delta for delta in merged if delta is not None)

    def _apply(
        self,
        rule: Callable[..., WeightDelta | None],
        layer: str,
        deltas: Mapping[str, WeightDelta | None],
    ) -> WeightDelta | None:
        """`rule` on one delta of each member; None where no member has one."""
        shape = next((delta.shape for delta in deltas.values() if delta is not None), None)
        if shape is None:
            return None
        inputs = [LayerInput(m.digest, m.weight, deltas[m.digest]) for m in self.recipe.members]
        recipe = self.recipe
        return rule(
            recipe.method,
            recipe.parameters,
            inputs,
            layer=layer,
            shape=shape,
            seed=recipe.seed or 0,
        )

    def _key(self, layer: str, members: "_Members") -> str:
        """Everything that the merged layer depends on.

        Members that leave the layer alone count by their weights only, so that another member
        elsewhere does not make the layer another one.
        """
        recipe = self.recipe
        # Draws and statistics belong to an adapter, not to what it holds in this layer.
        named = recipe.row.takes_seed or bool(self.statistics)
        present: list[Any] = []
        absent: list[str] = []
        for digest, weight in recipe.members:
            digests = members.digests(digest)
            if digests:
                present.append([fp32_hex(weight), list(digests), digest if named else None])
            else:
                absent.append(fp32_hex(weight))
        return sha256_of(
            {
                "method": recipe.method,
                "parameters": recipe.parameters,
                "seed": recipe.seed,
                "layer": layer,
                "present": present,
                "absent": sorted(absent) if recipe.row.sorts else absent,
            }
        )
