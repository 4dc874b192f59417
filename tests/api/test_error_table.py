"""One table maps every error of the layers below to one object."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from servers import RunningServer

from adapters_store.errors import AdapterRefused, StoreError
from adapters_store.evaluation.errors import EvaluationError
from server.adapters.errors import AdapterMemoryError, LeaseQueueFull
from server.engine.errors import EngineError, QueueFull, StepFailed
from server.errors import TABLE, UNEXPECTED, RequestError, error_body, error_headers, row_of
from server.model.errors import ModelError

ABSTRACT = {StoreError, EvaluationError, EngineError, RequestError, AdapterMemoryError}
ERROR_FIELDS = {"message", "type", "param", "code"}


def _tree(error_class: type[Exception]) -> Iterator[type[Exception]]:
    yield error_class
    for subclass in error_class.__subclasses__():
        yield from _tree(subclass)


ROOTS = (StoreError, EngineError, RequestError, AdapterMemoryError)
CLASSES = sorted({c for root in ROOTS for c in _tree(root)} - ABSTRACT, key=lambda c: c.__name__)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_every_error_of_the_layers_below_has_its_own_row(error_class: type[Exception]) -> None:
    assert error_class in TABLE


def test_the_table_holds_nothing_else_and_no_code_twice() -> None:
    assert set(TABLE) == set(CLASSES)
    codes = [row.code for row in (*TABLE.values(), UNEXPECTED)]
    assert len(set(codes)) == len(codes)


def test_model_errors_end_the_start_and_never_a_request() -> None:
    assert not set(_tree(ModelError)) & set(TABLE)


def test_a_subclass_has_the_row_of_its_nearest_class() -> None:
    class Odd(AdapterRefused):
        pass

    assert row_of(Odd(["x"])) is TABLE[AdapterRefused]
    assert row_of(KeyError("x")) is UNEXPECTED


def test_an_unexpected_error_tells_nothing() -> None:
    shown = error_body(KeyError("a secret path"))["error"]
    assert shown.keys() == ERROR_FIELDS
    assert shown["message"] == "internal error"


def test_messages_are_bounded() -> None:
    message = error_body(StepFailed("id", ValueError("x" * 10**6)))["error"]["message"]
    assert len(message) <= 10_000


def test_a_client_that_comes_too_early_is_told_when_to_return() -> None:
    assert error_headers(QueueFull(1, retry_after_s=7)) == {"retry-after": "7"}
    assert error_headers(LeaseQueueFull(1, retry_after_s=7)) == {"retry-after": "7"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("POST", "/v1/completions/", 404),
        ("GET", "/v1/completions", 405),
        ("OPTIONS", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/v1/adapters/x", 405),
        ("POST", "/health/live", 405),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/%00", 404),
        ("GET", "/v1/adapters/nobody", 404),
        ("GET", "/v1/adapters/nobody/file", 404),
        ("DELETE", "/v1/adapters/nobody", 404),
        ("GET", "/v1/adapters/No%20name", 400),
        ("GET", "/v1/adapters/%ff", 400),
        ("GET", "/v1/adapters?limit=0", 400),
        ("GET", "/v1/adapters?limit=1001", 400),
        ("GET", "/v1/adapters?limit=x", 400),
        ("GET", "/v1/adapters?after=nobody", 400),
        ("GET", "/v1/adapters?after=No+name", 400),
        ("POST", "/v1/adapters?dry_run=perhaps", 400),
    ],
)
def test_every_failure_is_the_one_object(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == ERROR_FIELDS
    assert error["message"]
    assert response.headers["x-request-id"]
    if "?" in path:
        assert error["param"] == path.partition("?")[2].partition("=")[0]


def test_a_head_request_is_answered_without_a_body(http: httpx.Client) -> None:
    response = http.head("/v1/models")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert response.content == b""


def test_a_defect_is_answered_counted_and_does_not_end_the_connection(
    http: httpx.Client,
    server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    complete: Callable[..., Any],
) -> None:
    def defect(*_: object) -> None:
        raise KeyError("a secret")

    counted = 'intarsia_http_responses_total{route="/v1/adapters",status="500"}'
    monkeypatch.setattr(server.services.store.registry, "list_page", defect)
    response = http.get("/v1/adapters", headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert response.json() == error_body(KeyError())
    assert response.headers["x-request-id"] == "mine"
    assert counted in http.get("/metrics").text
    assert complete()["choices"]
