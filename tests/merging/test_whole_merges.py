"""Whole adapters merged: layer by layer, from memory and from files, by threads, from a cache."""

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from drafts import digest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import (
    BASE,
    DOWN,
    GATE_UP,
    LIMITS,
    QKV,
    adapter_of,
    adapters,
    bias,
    element,
    random,
    random_adapter,
)

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterRefused, BaseMismatch, BlobCorrupt, MergeTooLarge
from adapters_store.merging.cache import BoundedCache, layer_cache
from adapters_store.merging.cost import CostLimits, predict
from adapters_store.merging.earlier import Earlier
from adapters_store.merging.merge import merge
from adapters_store.merging.reader import AdapterReader, Deltas, FileReader, MemoryReader
from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import METHODS, Method
from adapters_store.validation import check

F32 = torch.float32


def in_memory(members: Iterable[SparseAdapter]) -> dict[str, AdapterReader]:
    return {adapter.digest: MemoryReader(adapter) for adapter in members}


def recipe_of(members: Iterable[SparseAdapter], method: str = "overlap_average") -> Recipe:
    return Recipe.build(method, {}, [(adapter.digest, 1.0) for adapter in members])


class Counted(MemoryReader):
    """Notes the layers that are read."""

    def __init__(self, adapter: SparseAdapter) -> None:
        super().__init__(adapter)
        self.read: list[str] = []

    def deltas(self, layer: str) -> Deltas:
        self.read.append(layer)
        return super().deltas(layer)

    def digests(self, layer: str) -> tuple[str, ...]:
        return tuple(delta.digest for delta in super().deltas(layer))


@settings(max_examples=30)
@given(st.lists(adapters(), min_size=1, max_size=4))
def test_files_and_memory_and_threads_give_the_same_bytes(members: list[SparseAdapter]) -> None:
    recipe = recipe_of(members)
    expected = merge(recipe, in_memory(members))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        readers = {}
        for number, adapter in enumerate(members):
            path = Path(name) / str(number)
            files.write(adapter, path)
            readers[adapter.digest] = stack.enter_context(FileReader.open(path))
        for threads in (1, 2):
            merged = merge(recipe, readers, threads=threads)
            files.write(merged, Path(name) / "merged")
            files.write(expected, Path(name) / "expected")
            assert (Path(name) / "merged").read_bytes() == (Path(name) / "expected").read_bytes()


def test_merging_again_with_another_member_recomputes_only_what_it_touches() -> None:
    qkv, gate, both, other = (
        adapter_of(*(element(layer, F32, random(seed)) for layer in layers))
        for seed, layers in enumerate([(QKV,), (GATE_UP,), (QKV, GATE_UP), (GATE_UP,)])
    )
    cache = layer_cache(1 << 20)
    merge(recipe_of([qkv, both, gate]), in_memory([qkv, both, gate]), cache=cache)
    readers = {adapter.digest: Counted(adapter) for adapter in (qkv, both, other)}
    recipe = recipe_of([qkv, both, other])
    again = merge(recipe, readers, cache=cache)
    assert [reader.read for reader in readers.values()] == [[GATE_UP]] * 3
    assert again.digest == merge(recipe, in_memory([qkv, both, other])).digest
    merge(recipe, readers, cache=cache)
    assert [reader.read for reader in readers.values()] == [[GATE_UP]] * 3


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10)
@given(data=st.data())
def test_a_cache_and_threads_change_no_bit(method: str, data: st.DataObject) -> None:
    """Every pair of merges that share a cache: each as if it were alone."""
    row = METHODS[method]
    members = data.draw(st.lists(adapters(), min_size=max(2, row.min_members), max_size=3))
    cache = layer_cache(1 << 20)
    for _ in range(2):
        count = data.draw(st.integers(row.min_members, min(row.max_members, 3)))
        chosen = [data.draw(st.sampled_from(members)) for _ in range(count)]
        weights = data.draw(st.lists(st.sampled_from([0.5, 1.0]), min_size=count, max_size=count))
        pairs = [(adapter.digest, weight) for adapter, weight in zip(chosen, weights, strict=True)]
        given_ = {p.name: [1.0] * count for p in row.parameters if p.default is None}
        given_ |= data.draw(st.sampled_from([{}, *_scopes(row)]))
        recipe = Recipe.build(method, given_, pairs)
        alone = merge(recipe, in_memory(chosen))
        shared = merge(recipe, in_memory(chosen), cache=cache, threads=2)
        assert shared.digest == alone.digest


QKV_PART = element(QKV, F32, random(1))
ONE = adapter_of(QKV_PART)
SAME_HERE = adapter_of(QKV_PART, element(DOWN, F32, random(2)))
ELSEWHERE = adapter_of(element(DOWN, F32, random(3)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            ("task_arithmetic", {"lambda": 1.0}, [ONE], None),
            ("task_arithmetic", {"lambda": 2.0}, [ONE], None),
        ),
        (("average", {}, [ONE], None), ("average", {}, [ONE, ELSEWHERE], None)),
        (("average", {}, [ONE, ELSEWHERE], None), ("linear", {}, [ONE, ELSEWHERE], None)),
        (("dare_linear", {"density": 0.5}, [ONE], 1), ("dare_linear", {"density": 0.5}, [ONE], 2)),
        (
            ("dare_linear", {"density": 0.5}, [ONE], 1),
            ("dare_linear", {"density": 0.5}, [SAME_HERE], 1),
        ),
        (
            ("magnitude_prune", {"density": 0.5, "scope": "adapter"}, [ONE], None),
            ("magnitude_prune", {"density": 0.5, "scope": "adapter"}, [SAME_HERE], None),
        ),
    ],
    ids=["parameter", "members elsewhere", "method", "seed", "whose draws", "whose ranks"],
)
def test_a_cache_tells_layers_apart_by_all_that_they_depend_on(
    before: tuple[Any, ...], after: tuple[Any, ...]
) -> None:
    cache = layer_cache(1 << 20)
    found = []
    for method, parameters, members, seed in (before, after):
        pairs = [(adapter.digest, 1.0) for adapter in members]
        recipe = Recipe.build(method, parameters, pairs, seed)
        alone = merge(recipe, in_memory(members))
        assert merge(recipe, in_memory(members), cache=cache).digest == alone.digest
        found += [delta.digest for delta in alone.deltas if delta.layer == QKV]
    assert found[0] != found[1]


def _scopes(row: Method) -> list[dict[str, Any]]:
    has_scope = any(parameter.name == "scope" for parameter in row.parameters)
    return [{"scope": "adapter"}] if has_scope else []


@settings(max_examples=40)
@given(st.lists(adapters(), min_size=2, max_size=5), st.data())
def test_layers_of_an_earlier_merge_are_the_same_bits(
    members: list[SparseAdapter], data: st.DataObject
) -> None:
    """One member more or less, or another one, or another weight."""
    weights = st.sampled_from([0.5, 1.0])
    pairs = [(adapter.digest, data.draw(weights)) for adapter in members]
    dropped = data.draw(st.integers(0, len(pairs) - 1))
    fewer = pairs[:dropped] + pairs[dropped + 1 :]
    other = [*fewer, (pairs[dropped][0], 0.25)]
    readers = in_memory(members)
    for before, after in ((pairs, fewer), (fewer, pairs), (pairs, other), (pairs, pairs)):
        made_by, recipe = (Recipe.build("overlap_average", {}, some) for some in (before, after))
        needed = {digest: readers[digest] for digest in recipe.digests}
        stored = merge(made_by, {digest: readers[digest] for digest in made_by.digests})
        if not stored.deltas:
            continue
        earlier = Earlier.of(MemoryReader(stored), made_by, recipe, readers)
        updated = merge(recipe, needed, earlier=earlier)
        assert updated.digest == merge(recipe, needed).digest


@pytest.mark.parametrize("is_cached", [False, True])
def test_each_layer_is_read_once(stored: Path, is_cached: bool) -> None:
    read: list[str] = []

    class Noting(FileReader):
        def deltas(self, layer: str) -> Deltas:
            read.append(layer)
            return super().deltas(layer)

    with Noting(stored.open("rb")) as reader:
        recipe = Recipe.build("linear", {}, [(reader.digest, 1.0)])
        cache = layer_cache(1 << 20) if is_cached else None
        merge(recipe, {reader.digest: reader}, cache=cache)
    assert sorted(read) == [QKV, DOWN]


def test_an_earlier_merge_spares_what_the_changed_member_leaves_alone() -> None:
    qkv, gate, both = (
        adapter_of(*(element(layer, F32, random(seed)) for layer in layers))
        for seed, layers in enumerate([(QKV,), (GATE_UP,), (QKV, GATE_UP)])
    )
    made_by, recipe = recipe_of([qkv, both]), recipe_of([qkv, both, gate])
    stored = merge(made_by, in_memory([qkv, both]))
    readers = {adapter.digest: Counted(adapter) for adapter in (qkv, both, gate)}
    earlier = Earlier.of(MemoryReader(stored), made_by, recipe, readers)
    assert earlier.layers == {QKV}
    merge(recipe, readers, earlier=earlier)
    assert [reader.read for reader in readers.values()] == [[GATE_UP]] * 3


@pytest.mark.parametrize("method", [name for name in METHODS if name != "overlap_average"])
def test_only_the_overlap_average_takes_layers_over(method: str) -> None:
    row = METHODS[method]
    one = random_adapter(1)
    given_ = {p.name: [1.0] * row.min_members for p in row.parameters if p.default is None}
    recipe = Recipe.build(method, given_, [(one.digest, 1.0)] * row.min_members)
    assert not Earlier.of(MemoryReader(one), recipe, recipe, in_memory([one])).layers


def test_layer_with_a_bias_is_merged_anew() -> None:
    biased = adapter_of(bias(QKV, F32, random(1)))
    other = adapter_of(element(DOWN, F32, random(2)))
    made_by, recipe = recipe_of([biased]), recipe_of([biased, other])
    stored = merge(made_by, in_memory([biased]))
    earlier = Earlier.of(MemoryReader(stored), made_by, recipe, in_memory([biased, other]))
    assert not earlier.layers


def test_members_for_two_bases_are_refused() -> None:
    mine = random_adapter(1)
    layer = mine.layers[0]
    other = SparseAdapter("other", {layer: digest(9)}, random_adapter(2).deltas, {})
    with pytest.raises(BaseMismatch) as caught:
        merge(recipe_of([mine, other]), in_memory([mine, other]))
    assert caught.value.layer == layer
    assert caught.value.digests == {mine.digest: mine.base[layer], other.digest: digest(9)}


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_counts_layers_and_what_it_raises_ends_the_merge(threads: int) -> None:
    members = [random_adapter(1), adapter_of(element(DOWN, F32, random(2)))]
    recipe, readers = recipe_of(members), in_memory(members)
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        raise InterruptedError

    merge(recipe, readers, on_layer=lambda *counts: told.append(counts), threads=threads)
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(InterruptedError):
        merge(recipe, readers, on_layer=stop, threads=threads)
    assert told[2:] == [(1, 2)]


def test_result_carries_its_recipe_and_the_base_of_what_it_touches() -> None:
    members = [random_adapter(1), random_adapter(2)]
    recipe = recipe_of(members, "linear")
    merged = merge(recipe, in_memory(members))
    assert Recipe.parse(merged.notes["lineage"]) == recipe
    assert merged.base == {QKV: BASE.layers[QKV].digest}
    check(merged, BASE, LIMITS)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    files.write(adapter_of(element(QKV, F32, random(1)), element(DOWN, F32, random(2))), path)
    return path


def test_a_layer_is_read_by_itself(stored: Path) -> None:
    whole = files.read(stored)
    with FileReader.open(stored) as reader:
        assert reader.layers == (QKV, DOWN)
        assert [delta.digest for delta in reader.deltas(DOWN)] == [whole.deltas[1].digest]
        assert reader.deltas("another") == ()
        assert reader.digests("another") == ()
        assert [delta.nnz for delta in reader.outline(QKV)] == [whole.deltas[0].nnz]
        assert reader.outline(QKV)[0].tensors["values"].is_meta


def test_known_digests_spare_a_reading(stored: Path) -> None:
    with FileReader.open(stored) as reader:
        known = reader.verify()
    with FileReader.open(stored) as reader, FileReader(stored.open("rb"), known) as knowing:
        stored.write_bytes(b"")
        assert knowing.verify() == known
        with pytest.raises(AdapterRefused, match="became shorter"):
            reader.verify()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_changed_byte_is_found(stored: Path, is_known: bool) -> None:
    with FileReader.open(stored) as reader:
        known = reader.verify() if is_known else None
        digest = reader.digest
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with FileReader(stored.open("rb"), known) as reader:
        recipe = Recipe.build("linear", {}, [(digest, 1.0)])
        with pytest.raises(BlobCorrupt) as caught:
            merge(recipe, {digest: reader})
    assert caught.value.digest == digest


def test_indices_that_lead_out_of_the_weight_are_never_followed(tmp_path: Path) -> None:
    wild = element(QKV, F32, random(1))
    wild.indices[-1] = 1 << 30
    files.write(adapter_of(wild), tmp_path / "wild")
    with FileReader.open(tmp_path / "wild") as reader:
        recipe = Recipe.build("linear", {}, [(reader.digest, 1.0)])
        with pytest.raises(AdapterRefused, match="outside"):
            merge(recipe, {reader.digest: reader})


@pytest.mark.parametrize("cut", [0, 7, 8, 100, -1])
def test_file_that_is_cut_short_is_refused(stored: Path, cut: int) -> None:
    stored.write_bytes(stored.read_bytes()[:cut])
    with pytest.raises(AdapterRefused):
        FileReader.open(stored)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=30))
def test_cache_never_holds_more_than_its_capacity(puts: list[tuple[str, int]]) -> None:
    cache: BoundedCache[int] = BoundedCache(4, lambda value: value)
    newest: dict[str, int] = {}
    for key, value in puts:
        cache.put(key, value)
        newest[key] = value
        assert cache.size <= 4
        assert cache.get(key) == value
    held = {key: found for key in newest if (found := cache.get(key)) is not None}
    assert held.items() <= newest.items()
    assert cache.size == sum(held.values())


def test_cache_drops_the_longest_unused_and_takes_nothing_larger_than_itself() -> None:
    cache: BoundedCache[int] = BoundedCache(4, lambda value: value)
    for key in "ab":
        cache.put(key, 2)
    cache.get("a")
    cache.put("c", 1)
    assert [cache.get(key) for key in "abc"] == [2, None, 1]
    cache.put("d", 5)
    assert [cache.get(key) for key in "acd"] == [2, 1, None]


@settings(max_examples=40)
@given(st.lists(adapters(), min_size=1, max_size=4))
def test_prediction_bounds_the_result(members: list[SparseAdapter]) -> None:
    recipe = recipe_of(members)
    cost = predict(recipe, in_memory(members))
    merged = merge(recipe, in_memory(members))
    unique = {adapter.digest: adapter for adapter in members}.values()
    assert cost.bytes_read == sum(adapter.num_bytes for adapter in unique)
    assert cost.entries == sum(adapter.nnz for adapter in unique)
    assert merged.num_bytes <= cost.result_bytes <= cost.peak_bytes
    assert cost.seconds > 0


@pytest.mark.parametrize(("what", "limits"), [("bytes", (99, 1e9)), ("seconds", (1 << 40, 1e-9))])
def test_merge_that_would_cost_too_much_is_refused_with_what_was_predicted(
    what: str, limits: tuple[int, float]
) -> None:
    members = [random_adapter(1), random_adapter(2)]
    cost = predict(recipe_of(members), in_memory(members))
    with pytest.raises(MergeTooLarge) as caught:
        CostLimits(*limits).check(cost)
    predicted = cost.peak_bytes if what == "bytes" else cost.seconds
    found = caught.value
    assert (found.what, found.predicted, found.limit) == (what, predicted, min(limits))
