"""Results by key: one computation for all who ask at once, the last ones kept, failures not."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from store_factories import BASE, LIMITS, random_adapter

from adapters_store import files
from adapters_store.ingest import AdapterStore
from adapters_store.single_flight import SingleFlight

WAIT_S = 20.0


class Lengths:
    """Computes lengths, one at a time when told to wait; counts how often."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.started, self.proceed = threading.Event(), threading.Event()
        self.proceed.set()

    def __call__(self, key: str) -> int:
        self.counts[key] += 1
        self.started.set()
        assert self.proceed.wait(WAIT_S)
        if not key:
            raise ValueError("no key")
        return len(key)


def test_those_who_ask_at_once_share_one_computation() -> None:
    lengths = Lengths()
    lengths.proceed.clear()
    once = SingleFlight(lengths, 8)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(once, "abc") for _ in range(8)]
        assert lengths.started.wait(WAIT_S)
        lengths.proceed.set()
        assert [future.result() for future in asked] == [3] * 8
    assert lengths.counts == {"abc": 1}


def test_the_keys_asked_for_last_are_kept() -> None:
    lengths = Lengths()
    once = SingleFlight(lengths, 2)
    for key in ("a", "bb", "a", "ccc", "a", "bb"):
        assert once(key) == len(key)
    assert lengths.counts == {"a": 1, "bb": 2, "ccc": 1}


def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    lengths = Lengths()
    lengths.proceed.clear()
    once = SingleFlight(lengths, 8)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(once, "") for _ in range(4)]
        assert lengths.started.wait(WAIT_S)
        lengths.proceed.set()
        for future in asked:
            with pytest.raises(ValueError, match="no key"):
                future.result()
    before = lengths.counts[""]
    with pytest.raises(ValueError, match="no key"):
        once("")
    assert lengths.counts[""] == before + 1


def test_one_key_does_not_wait_for_another() -> None:
    lengths = Lengths()
    lengths.proceed.clear()
    once = SingleFlight(lambda key: lengths(key) if key == "slow" else 0, 8)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(once, "slow")
        assert lengths.started.wait(WAIT_S)
        assert once("fast") == 0
        lengths.proceed.set()
        assert slow.result() == 4


class SlowWeights:
    """A base's weights for one reader at a time, who waits until it may go on."""

    def __init__(self) -> None:
        self.reads = 0
        self.started, self.proceed = threading.Event(), threading.Event()

    def entries(self, layer: str, rows: slice) -> torch.Tensor:
        self.reads += 1
        self.started.set()
        assert self.proceed.wait(WAIT_S)
        return torch.ones(rows.stop - rows.start, BASE.layers[layer].shape[1])


def test_report_on_one_adapter_is_measured_once_for_all(tmp_path: Path) -> None:
    weights = SlowWeights()
    weights.proceed.set()
    store = AdapterStore.open(tmp_path, BASE, {}, LIMITS, base_weights=weights)
    files.write(random_adapter(), tmp_path / "upload")
    published = store.ingest(tmp_path / "upload", "sql", {})
    assert weights.reads == 0
    effect = store.measure(published.adapter)
    weights.reads = 0
    weights.started.clear()
    weights.proceed.clear()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(store.effect, published.record.digest) for _ in range(4)]
        assert weights.started.wait(WAIT_S)
        weights.proceed.set()
        assert all(future.result() == effect for future in asked)
    assert weights.reads == 1
    store.close()
