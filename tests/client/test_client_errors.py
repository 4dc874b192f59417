"""Every status and every failure on the way becomes the one class that the tree names."""

from typing import Any

import httpx
import pytest
from intarsia_client import errors
from intarsia_client.errors import (
    ERROR_CLASSES,
    AdapterRefused,
    APIError,
    BadRequest,
    ConnectionFailed,
    IntarsiaError,
    NotFound,
    RateLimited,
    ServerError,
    Timeout,
    UnexpectedAnswer,
)

STATUSES = [
    *((status, kind) for status, kind in ERROR_CLASSES.items()),
    (302, APIError),
    (405, APIError),
    (499, APIError),
    (500, ServerError),
    (502, ServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_status_raises_its_class(drive: Any, status: int, kind: type[APIError]) -> None:
    error = {"message": "no", "type": "t", "param": "model", "code": "c"}
    response = httpx.Response(status, json={"error": error}, headers={"x-request-id": "r1"})
    with pytest.raises(APIError) as caught:
        drive(lambda _: response, "models")
    assert type(caught.value) is kind
    found = caught.value
    assert (found.status, found.message, found.request_id) == (status, "no", "r1")
    assert (found.type, found.param, found.code) == ("t", "model", "c")
    assert str(found) == f"no (HTTP {status}, r1)"


def test_every_error_of_the_api_is_in_the_table() -> None:
    def descendants(kind: type[APIError]) -> set[type[APIError]]:
        return {kind}.union(*map(descendants, kind.__subclasses__()))

    by_range = {APIError, ServerError}
    assert descendants(APIError) == {*ERROR_CLASSES.values()} | by_range
    assert len(set(ERROR_CLASSES.values())) == len(ERROR_CLASSES)


def drawn_tree() -> dict[str, str]:
    """Parent of every class, from the drawing in the docstring of `errors`: 4 columns a level."""
    path, parents = ["Exception"], {}
    for line in (errors.__doc__ or "").split("\n\n")[1].splitlines():
        name, *_ = line.lstrip("│├└─ ").split()
        depth = line.index(name) // 4
        path[depth + 1 :] = [name]
        parents[name] = path[depth]
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert drawn_tree() == {
        kind.__name__: kind.__bases__[0].__name__
        for kind in kinds
        if issubclass(kind, IntarsiaError)
    }


def test_refused_adapter_lists_the_reasons(drive: Any) -> None:
    body = {"error": {"message": "refused", "reasons": ["nan at 3", "unknown layer x"]}}
    with pytest.raises(AdapterRefused) as caught:
        drive(lambda _: httpx.Response(422, json=body), "models")
    assert caught.value.reasons == ("nan at 3", "unknown layer x")


WAITS = [
    (None, None),
    ("0", 0.0),
    ("7", 7.0),
    ("0.5", 0.5),
    ("Wed, 21 Oct 2026 07:28:00 GMT", None),
]


@pytest.mark.parametrize(("header", "seconds"), WAITS)
def test_full_queue_says_how_long_to_wait(drive: Any, header: Any, seconds: Any) -> None:
    headers = {} if header is None else {"retry-after": header}
    with pytest.raises(RateLimited) as caught:
        drive(lambda _: httpx.Response(429, headers=headers), "models")
    assert caught.value.retry_after == seconds


BODIES = [
    pytest.param("", "the server gave no reason", id="empty"),
    pytest.param("<html>Bad", "<html>Bad", id="html-of-a-proxy"),
    pytest.param("x" * 900, "x" * 200, id="long-text-is-cut"),
    pytest.param('{"error": "Unauthorized"}', "Unauthorized", id="error-is-a-string"),
    pytest.param('{"detail": "no"}', '{"detail": "no"}', id="other-object"),
    pytest.param('{"error": null}', '{"error": null}', id="null"),
    pytest.param("[]", "[]", id="list"),
]


@pytest.mark.parametrize(("text", "message"), BODIES)
def test_error_body_of_any_shape_keeps_the_status(drive: Any, text: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        drive(lambda _: httpx.Response(400, text=text), "models")
    assert (caught.value.message, caught.value.type) == (message, None)


def descendants_of_request_error() -> list[type[httpx.RequestError]]:
    found: list[type[httpx.RequestError]] = [httpx.RequestError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", descendants_of_request_error(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("message", ["", "why"])
def test_every_failure_of_httpx_is_mapped(
    drive: Any, kind: type[httpx.RequestError], message: str
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise kind(message, request=request)

    expected = Timeout if issubclass(kind, httpx.TimeoutException) else ConnectionFailed
    with pytest.raises(expected, match=message or kind.__name__) as caught:
        drive(handler, "models")
    assert isinstance(caught.value.__cause__, kind)


STRANGE = [
    pytest.param("", id="empty"),
    pytest.param("<html>", id="html"),
    pytest.param("[]", id="list"),
    pytest.param('{"data": [{}]}', id="missing-field"),
    pytest.param('{"data": 3}', id="wrong-type"),
    pytest.param('{"data": [null]}', id="null"),
]


@pytest.mark.parametrize("text", STRANGE)
def test_success_of_another_shape_is_not_taken_for_an_answer(drive: Any, text: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="GET /v1/models"):
        drive(lambda _: httpx.Response(200, text=text), "models")


def test_summary_is_one_line() -> None:
    assert NotFound(404, "a\n  b").summary == "a b (HTTP 404)"
