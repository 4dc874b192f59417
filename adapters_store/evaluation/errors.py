"""What can go wrong with an evaluation's rows, metrics and gate, as types that hold their data."""

import reprlib
from collections.abc import Sequence

from adapters_store.errors import StoreError


class EvaluationError(StoreError):
    """Base class of the errors of evaluation."""


class RowRefused(EvaluationError):
    """Row `row` (from 1) cannot be scored: `reason`. `field` is None where it is no one field."""

    def __init__(self, row: int, field: str | None, reason: str) -> None:
        self.row, self.field, self.reason = row, field, reason
        place = f"row {row}" if field is None else f"row {row}, field {field}"
        super().__init__(f"{place}: {reason}")


class DataSetRefused(EvaluationError):
    """The data set as a whole cannot be evaluated: `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"data set: {reason}")


class UnknownMetric(EvaluationError):
    """No metric is called `name`; there are `known`."""

    field = "metrics"

    def __init__(self, name: object, known: Sequence[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"there is no metric {reprlib.repr(name)}; there are {', '.join(known)}")


class ScoresRefused(EvaluationError):
    """Scores that say nothing: none, not finite, or not of the same rows: `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"scores: {reason}")


class InvalidSetting(EvaluationError):
    """The setting `field` holds `value`, which does not do: `reason`."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field, self.value, self.reason = field, value, reason
        super().__init__(f"{field} {reprlib.repr(value)}: {reason}")
