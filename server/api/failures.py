"""Exceptions as answers: the error object for everything, whoever raised it."""

import logging
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.middleware import error_response
from server.errors import INVALID, NOT_FOUND, TABLE, BadRequest

SHOWN_INPUT = 100  # characters of a wrong value that are repeated

logger = logging.getLogger(__name__)


async def show_known(request: Request, error: Exception) -> JSONResponse:
    """An error with a row in the table."""
    response = error_response(error)
    if response.status_code >= 500:
        logger.error("request %s: %s", request.state.request_id, error, exc_info=error)
    return response


async def show_unexpected(request: Request, error: Exception) -> JSONResponse:
    """A defect: logged with its trace, told without details."""
    logger.error("request %s failed", request.state.request_id, exc_info=error)
    return error_response(error)


async def show_unreadable(request: Request, error: Exception) -> JSONResponse:
    """A body or query that does not have the route's form: the first fault, by field and value."""
    assert isinstance(error, RequestValidationError)
    return error_response(_first_fault(error))


async def show_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework raises: no such route or method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if type(error.__cause__) in TABLE:  # raised while the framework read the body
        return error_response(error.__cause__)  # type: ignore[arg-type]
    kind = NOT_FOUND if error.status_code == 404 else INVALID
    content = {"message": str(error.detail), "type": kind, "param": None, "code": "http_error"}
    return JSONResponse({"error": content}, error.status_code, headers=error.headers)


def _first_fault(error: RequestValidationError) -> BadRequest:
    fault: dict[str, Any] = error.errors()[0]
    if fault["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {fault['ctx']['error']}")
    param = ".".join(str(part) for part in _field_path(fault["loc"])) or None
    found = "" if fault["type"] == "missing" else f", not {repr(fault['input'])[:SHOWN_INPUT]}"
    return BadRequest(f"{param or 'body'}: {fault['msg']}{found}", param)


def _field_path(location: tuple[str | int, ...]) -> list[str | int]:
    """The path to the field, without where it came from and the names of union members."""
    return [part for part in location[1:] if isinstance(part, int) or part.isidentifier()]
