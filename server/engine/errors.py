"""What the engine refuses or fails at.

EngineError
├── InvalidParameter    a sampling parameter or prompt outside what can be served
├── QueueFull           as many requests wait as the server was told to hold
├── StepFailed          the step that computed this request raised; the request is over
└── EngineStopped       the engine is stopping and takes no requests

LogitsUnusable stands beside them: it reaches a caller as the cause of StepFailed.
"""


class EngineError(Exception):
    """Base class of the engine's errors."""


class InvalidParameter(EngineError):
    """`field` holds `value`; `expected` says what would do."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field} must be {expected}, not {value!r}")


class QueueFull(EngineError):
    """`limit` requests are waiting already; `retry_after_s` is when to try again."""

    def __init__(self, limit: int, retry_after_s: int = 1) -> None:
        self.limit, self.retry_after_s = limit, retry_after_s
        super().__init__(f"{limit} requests are waiting already; try again later")


class StepFailed(EngineError):
    """Computing `request_id` raised `cause`."""

    def __init__(self, request_id: str, cause: BaseException) -> None:
        self.request_id, self.cause = request_id, cause
        super().__init__(f"request {request_id} failed: {type(cause).__name__}: {cause}")


class EngineStopped(EngineError):
    """The engine is stopping."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class LogitsUnusable(ArithmeticError):
    """No token can be chosen: the model gave no finite numbers, or every token is banned."""

    def __init__(self) -> None:
        super().__init__("the logits are not finite, or every token is banned")
