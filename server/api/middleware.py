"""What every request passes: an id, the key, the size limit, a count. Plain ASGI, no buffering."""

import hashlib
import hmac
import logging
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge, Unauthorized, error_body, error_headers, row_of

HEALTH = "/health/"
logger = logging.getLogger(__name__)

GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def error_response(error: Exception) -> JSONResponse:
    """The one error object, with its status and headers."""
    status = row_of(error).status
    return JSONResponse(error_body(error), status_code=status, headers=error_headers(error))


class RequestId:
    """Gives each request an id (the client's `x-request-id` if it is a plain one), and says it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unique = uuid.uuid4().hex
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else unique
        scope.setdefault("state", {}).update(request_id=request_id, unique_id=unique)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class CountAnswers:
    """Counts answers by route template and status, so that labels stay few."""

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The router notes the route that it chose; a request refused before has none.
                self._count(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


class AnswerDefects:
    """Answers an exception that nothing else knows: logged with its trace, told without details."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if has_begun or scope["type"] != "http":
                raise
            logger.exception("request %s failed", scope["state"]["request_id"])
            await error_response(error)(scope, receive, send)


class ApiKey:
    """Wants `Authorization: Bearer <key>` on every route but health. Compares in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = _sha256(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(HEALTH) or self._allows(scope):
            await self._app(scope, receive, send)
        else:
            await error_response(Unauthorized())(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(_sha256(key), self._digest)


class BodyLimit:
    """Refuses a body over the limit, by its stated length or as the bytes come."""

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int]) -> None:
        self._app = app
        self._limit_of = limit_of  # path -> bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        stated = Headers(scope=scope).get("content-length", "0")
        if stated.isdigit() and int(stated) > limit:
            await error_response(BodyTooLarge(limit))(scope, receive, send)
            return
        await self._app(scope, _limited(receive, limit), send)


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise BodyTooLarge(limit)
        return message

    return counted


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
