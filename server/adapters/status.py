"""Where an adapter is, as it is told: its state and its bytes by tier."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """stored -> loading -> ready -> draining -> gone; idle adapters fall back to `stored`."""

    STORED = "stored"  # on disk, and perhaps in host memory
    LOADING = "loading"  # on its way to the device, or waiting for room there
    READY = "ready"  # on the device
    DRAINING = "draining"  # deleted; requests that began before still use it
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """One adapter on this server."""

    state: State
    pins: int  # leases that hold it on the device
    waiting: int  # leases that are asked for and not yet given
    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes that a drain freed in each tier of memory."""

    host: int
    device: int
