"""The device memory that adapters may take: a budget of their own, or one shared with KV pages."""

from typing import Protocol


class DeviceRoom(Protocol):
    """Memory that adapters hold `total` bytes of. Called under the lock of the device's memory."""

    def fits(self, total: int) -> bool:
        """Whether `hold(total)` can be done now."""

    def hold(self, total: int) -> None:
        """From now on adapters hold `total` bytes."""

    def vacate(self) -> None:
        """Really free what was given to adapters, before they write there. Called without the
        lock, since it may take time."""


class OwnRoom:
    """A budget of the adapters' own, as large as their cap."""

    def fits(self, total: int) -> bool:
        return True

    def hold(self, total: int) -> None:
        pass

    def vacate(self) -> None:
        pass
