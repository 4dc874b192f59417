"""Everything that can go wrong in a call, as types that hold their data.

IntarsiaError
├── InvalidArgument         refused here, before anything was sent
├── ConnectionFailed        no answer, or one that was cut off
├── Timeout                 no answer in time
├── UnexpectedAnswer        a success that is not what an Intarsia server answers
└── APIError                the server answered with an error
    ├── BadRequest          400
    ├── Unauthorized        401
    ├── Forbidden           403
    ├── NotFound            404
    ├── Conflict            409
    ├── TooLarge            413
    ├── UnsupportedMedia    415
    ├── AdapterRefused      422, with `reasons`
    ├── RateLimited         429, with `retry_after`
    └── ServerError         every other 5xx
        └── Unavailable     503

An error status that has no class of its own, say 405, is a plain APIError.
"""

from collections.abc import Mapping
from typing import Any


class IntarsiaError(Exception):
    """Base class of every error of this package."""

    @property
    def summary(self) -> str:
        """The message on one line."""
        return " ".join(str(self).split())


class InvalidArgument(IntarsiaError, ValueError):
    """`field` cannot be sent: `reason`."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}")


class ConnectionFailed(IntarsiaError):
    """The server could not be reached, or the connection ended before the answer did."""


class Timeout(IntarsiaError):
    """The server did not connect or answer within the client's timeout."""


class UnexpectedAnswer(IntarsiaError):
    """The answer to `request` (its method and path) cannot be read: is it an Intarsia server?"""

    def __init__(self, request: str, reason: str) -> None:
        self.request, self.reason = request, reason
        super().__init__(f"unexpected answer to {request}: {reason}")


class APIError(IntarsiaError):
    """The server's error object, with the status and headers that came with it.

    `type`, `param` and `code` are None where the server (or a proxy before it) gave none.
    `retry_after` is in seconds, None unless the server named a time to wait.
    `raw` is the whole error object, empty when the body held none.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        self.status, self.message = status, message
        self.type, self.param, self.code = type, param, code
        self.request_id, self.retry_after = request_id, retry_after
        self.raw = dict(raw or {})
        super().__init__(f"{message} (HTTP {status}{f', {request_id}' if request_id else ''})")


class BadRequest(APIError):
    """400: a field is missing, of the wrong type or out of range; `param` names it."""


class Unauthorized(APIError):
    """401: the server wants an API key."""


class Forbidden(APIError):
    """403: this key may not do that."""


class NotFound(APIError):
    """404: no such model, adapter or route."""


class Conflict(APIError):
    """409: the name belongs to something else."""


class TooLarge(APIError):
    """413: the upload is larger than the server takes."""


class UnsupportedMedia(APIError):
    """415: not a kind of file or body that the server reads."""


class AdapterRefused(APIError):
    """422: the upload is not an adapter that this base can use."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason the server gave, each naming the field and value."""
        return tuple(self.raw.get("reasons", ()))


class RateLimited(APIError):
    """429: the queues are full; try again after `retry_after` seconds."""


class ServerError(APIError):
    """5xx: the server failed."""


class Unavailable(ServerError):
    """503: the server is starting or draining."""


ERROR_CLASSES: Mapping[int, type[APIError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: AdapterRefused,
    429: RateLimited,
    503: Unavailable,
}


def error_class(status: int) -> type[APIError]:
    """The class of errors that have this HTTP status."""
    return ERROR_CLASSES.get(status, ServerError if status >= 500 else APIError)
