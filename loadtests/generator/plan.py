"""What the generator is to ask, as a file between two processes. Knows neither Locust nor HTTP."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Planned:
    """One body of `/v1/completions`, not to be sent sooner than `at_s` after the start."""

    at_s: float
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `users` users ask of the server at `url`, each its next ask as soon as it is free."""

    url: str
    users: int
    asks: list[Planned]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Plan":
        fields = json.loads(path.read_text())
        return cls(fields["url"], fields["users"], [Planned(**ask) for ask in fields["asks"]])
