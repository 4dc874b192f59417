"""What cannot be planned. Each error holds its data, and says it in one sentence."""

from collections.abc import Iterable, Mapping
from pathlib import Path

GIB = 1 << 30


class PlanError(Exception):
    """A plan that cannot be made."""


class NameUnknown(PlanError):
    """No `what` is called `name`; `known` are."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        self.what, self.name, self.known = what, name, tuple(known)
        super().__init__(f"no {what} is called {name!r}; there are {', '.join(self.known)}")


class ConfigUnusable(PlanError):
    """The configuration at `path` does not describe a model: `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class NotServed(PlanError):
    """What is asked for is not served: `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class DoesNotFit(PlanError):
    """The `parts`, in bytes, are more than the `total` bytes of `device`.

    `largest_batch` sequences would fit beside the adapters, and `most_adapters` beside the
    sequences.
    """

    def __init__(
        self,
        device: str,
        total: int,
        parts: Mapping[str, int],
        largest_batch: int,
        most_adapters: int,
    ) -> None:
        self.device, self.total, self.parts = device, total, dict(parts)
        self.largest_batch, self.most_adapters = largest_batch, most_adapters
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.parts.items())
        missing = (sum(self.parts.values()) - total) / GIB
        super().__init__(
            f"does not fit: {device} has {total / GIB:.2f} GiB and {missing:.2f} are missing "
            f"({listed}); {self._way_out()}"
        )

    def _way_out(self) -> str:
        if (
            sum(self.parts[name] for name in ("runtime", "weights", "workspace", "reserve"))
            > self.total
        ):
            return "the model itself is too large"
        return (
            f"with these adapters {self.largest_batch} sequences fit, "
            f"with these sequences {self.most_adapters} adapters"
        )
