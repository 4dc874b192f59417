"""What can go wrong with adapter memory."""


class AdapterMemoryFull(Exception):
    """`needed` more bytes do not fit into `budget`, of which running requests hold `pinned`."""

    def __init__(self, needed: int, pinned: int, budget: int) -> None:
        self.needed, self.pinned, self.budget = needed, pinned, budget
        super().__init__(
            f"adapters in use hold {pinned} of {budget} bytes; {needed} more do not fit now"
        )
