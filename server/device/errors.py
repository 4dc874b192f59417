"""What keeps a device from being used."""


class DeviceUnusable(Exception):
    """There is no GPU that can be computed on: `reason`, and what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(f"{reason}; {remedy}")
