"""What is kept between merges: values by key, the longest unused dropped first. Thread-safe."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, Protocol, TypeVar

from adapters_store.adapter import WeightDelta

V = TypeVar("V")
Layer = tuple[WeightDelta, ...]
ENTRY_BYTES = 1024  # of an entry beside its tensors, so that empty layers count too


class LayerCache(Protocol):
    """Merged layers by a key that holds everything that a merged layer depends on."""

    def get(self, key: str) -> Layer | None:
        """The layer's deltas, () where a merge leaves it alone; None for an unknown key."""

    def put(self, key: str, value: Layer) -> None:
        """Keep a layer for as long as the cache sees fit."""


class BoundedCache(Generic[V]):
    """At most `capacity` of what `size_of` counts."""

    def __init__(self, capacity: int, size_of: Callable[[V], int]) -> None:
        self._capacity, self._size_of = capacity, size_of
        self._values: OrderedDict[str, V] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """What is kept now, as `size_of` counts it."""
        return self._size

    def get(self, key: str) -> V | None:
        """The value; None for an unknown key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: V) -> None:
        """Keep `value`, unless it is larger than the cache."""
        with self._lock:
            self._drop(key)
            if self._size_of(value) > self._capacity:
                return
            self._values[key] = value
            self._size += self._size_of(value)
            while self._size > self._capacity:
                self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        if key in self._values:
            self._size -= self._size_of(self._values.pop(key))


def layer_cache(max_bytes: int) -> BoundedCache[Layer]:
    """A LayerCache in memory, of at most `max_bytes`."""
    return BoundedCache(max_bytes, lambda layer: sum((d.num_bytes for d in layer), ENTRY_BYTES))
