"""The API key, and what is served to whom."""

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest
from api.conftest import KEY
from servers import RunningServer

from server.settings import Settings

METHODS = ("GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD")
BEYOND_THE_SCHEMA = (
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/oauth2-redirect",
    "/nothing/here",
)
OPEN = ("/health/live", "/health/ready")


def _paths(server: RunningServer) -> list[str]:
    """Every path that the server routes, and some that it does not."""
    with server.http(headers={"authorization": f"Bearer {KEY}"}) as http:
        schema = http.get("/openapi.json").json()
    assert {"/v1/completions", "/metrics", "/version", "/v1/adapters/{reference}"} <= schema[
        "paths"
    ].keys()
    return [path.replace("{reference}", "x") for path in schema["paths"]] + [*BEYOND_THE_SCHEMA]


@pytest.fixture
def keyed(keyed_server: RunningServer) -> Iterator[httpx.Client]:
    with keyed_server.http() as client:
        yield client


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer é"],
)
def test_every_route_but_health_wants_the_key(
    keyed_server: RunningServer, keyed: httpx.Client, header: str | None
) -> None:
    headers = {} if header is None else {b"authorization": header.encode()}
    for path in _paths(keyed_server):
        for method in METHODS:
            if path in OPEN:
                continue
            response = keyed.request(method, path, headers=headers)
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            if method != "HEAD":
                assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", OPEN)
def test_health_wants_no_key(keyed: httpx.Client, path: str) -> None:
    assert keyed.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 401), ("/healthy", 401), ("/health/../v1/models", 404), ("/health/nothing", 404)],
)
def test_only_health_is_open(keyed: httpx.Client, path: str, status: int) -> None:
    url = keyed.base_url
    raw = HTTPConnection(url.host, url.port or 80)  # httpx would tidy the path up
    raw.request("GET", path)
    with closing(raw), raw.getresponse() as response:
        assert response.status == status
        assert "error" in json.load(response)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_opens_every_route(
    keyed_server: RunningServer, keyed: httpx.Client, scheme: str
) -> None:
    for path in _paths(keyed_server):
        response = keyed.get(path, headers={"authorization": f"{scheme} {KEY}"})
        assert response.status_code != 401, path


def test_a_body_is_not_read_before_the_key(keyed: httpx.Client) -> None:
    response = keyed.post("/v1/completions", content=b"{" * 20_000_000)
    assert response.status_code == 401


def test_the_server_binds_to_loopback_unless_told() -> None:
    assert Settings().host == "127.0.0.1"
