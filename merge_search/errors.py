"""Everything that can end a search before its time, as types that hold their data.

SearchError
├── SearchRefused       the search cannot be as asked: a field and why
├── JournalRefused      the directory holds another search, or is in use
├── TicketLost          an evaluation is gone, or was cancelled
├── EvaluationFailed    the server gave an evaluation up
└── NothingScored       no trial has a score
"""

from pathlib import Path


class SearchError(Exception):
    """Base class of every error of this package."""


class SearchRefused(SearchError):
    """`field` does not do: `reason`."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class JournalRefused(SearchError):
    """The search kept at `path` cannot be gone on with: `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class TicketLost(SearchError):
    """The evaluation `ticket` is gone, or was cancelled."""

    def __init__(self, ticket: str) -> None:
        self.ticket = ticket
        super().__init__(f"evaluation {ticket} is gone, or was cancelled")


class EvaluationFailed(SearchError):
    """The evaluation `id` ended without results: `reason`."""

    def __init__(self, id: str, reason: str) -> None:
        self.id, self.reason = id, reason
        super().__init__(f"{id}: {reason}")


class NothingScored(SearchError):
    """Of `num_trials` trials none has a score, so none is the best."""

    def __init__(self, num_trials: int) -> None:
        self.num_trials = num_trials
        super().__init__(f"none of {num_trials} trials has a score")
