"""Exceptions as answers: the error object for everything, whoever raised it."""

import logging
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.middleware import error_response
from server.errors import INVALID, NOT_FOUND, TABLE, BadRequest, shown

logger = logging.getLogger(__name__)


async def show_known(request: Request, error: Exception) -> JSONResponse:
    """An error with a row in the table."""
    response = error_response(error)
    if response.status_code >= 500:
        logger.error("request %s: %s", request.state.request_id, error, exc_info=error)
    return response


async def show_unreadable(request: Request, error: Exception) -> JSONResponse:
    """A body or query that does not have the route's form: the first fault, by field and value."""
    assert isinstance(error, RequestValidationError)
    return error_response(_first_fault(error))


async def show_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework raises: no such route or method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Exception):  # raised while the framework read the body
        return error_response(_body_fault(error.__cause__))
    kind = NOT_FOUND if error.status_code == 404 else INVALID
    content = {"message": str(error.detail), "type": kind, "param": None, "code": "http_error"}
    return JSONResponse({"error": content}, error.status_code, headers=error.headers)


def _body_fault(cause: Exception) -> Exception:
    if type(cause) in TABLE:
        return cause
    if isinstance(cause, RecursionError):
        return BadRequest("the body is nested too deeply")
    return BadRequest(f"the body cannot be read: {cause}")


def _first_fault(error: RequestValidationError) -> BadRequest:
    fault: dict[str, Any] = error.errors()[0]
    if fault["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {fault['ctx']['error']}")
    param = ".".join(str(part) for part in _field_path(fault["loc"])) or None
    found = "" if fault["type"] == "missing" else f", not {shown(fault['input'])}"
    return BadRequest(f"{param or 'body'}: {fault['msg']}{found}", param)


def _field_path(location: tuple[str | int, ...]) -> list[str | int]:
    """The path to the field, without where it came from (body, query)."""
    return list(location[1:])
