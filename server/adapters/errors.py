"""What can go wrong with adapter memory.

AdapterMemoryError
├── AdapterMemoryFull       the adapters of one request never fit beside what is pinned for good
└── LeaseQueueFull          as many requests wait for adapter memory as the server holds

RoundedAway and NoRoomToFuse stand beside them: what would be fused on its own account then is not,
and nobody hears of it.
"""


class AdapterMemoryError(Exception):
    """Base class of what the memory of adapters refuses."""


class AdapterMemoryFull(AdapterMemoryError):
    """`needed` bytes of adapters can never be had: of `budget`, `pinned` are pinned for good."""

    def __init__(self, needed: int, pinned: int, budget: int) -> None:
        self.needed, self.pinned, self.budget = needed, pinned, budget
        super().__init__(
            f"the adapters of this request need {needed} bytes of device memory; "
            f"of {budget} for adapters, {pinned} are pinned"
        )


class LeaseQueueFull(AdapterMemoryError):
    """`limit` requests are waiting for adapter memory; `retry_after_s` is when to try again."""

    def __init__(self, limit: int, retry_after_s: int = 1) -> None:
        self.limit, self.retry_after_s = limit, retry_after_s
        super().__init__(f"{limit} requests are waiting for adapter memory; try again later")


class RoundedAway(Exception):
    """Weights of 16 bits would lose the share `error` of a change; `worst` is the most allowed."""

    def __init__(self, error: float, worst: float) -> None:
        self.error, self.worst = error, worst
        super().__init__(f"rounding would lose {error:.2%} of the change; at most {worst:.2%} may")


class NoRoomToFuse(Exception):
    """The journals that fusing needs, `needed` bytes more, find no room beside what is used."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        super().__init__(f"no room for {needed} bytes of journals")
