"""What an adapter does to the base, asked for and shown; signatures on their way to the server."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from intarsia_client import Client, InvalidArgument, NotFound, UnexpectedAnswer, commands

LAYER = "model.layers.0.self_attn.qkv_proj"
NUMBERS = {"nnz": 5529, "density": 0.01, "norm": 1.25}
CHANGED = {"float32": 1.0, "bfloat16": 0.875, "float16": 0.96}
PART = {"name": "q", "nnz": 5000, "density": 0.02, "norm": 1.0, "changed": CHANGED}
STATS: dict[str, Any] = {
    "id": "sql@3",
    "object": "adapter.stats",
    "digest": "sha256:aa",
    "base_matches": True,
    "layers": [{"layer": LAYER, "kind": "element", **NUMBERS, "changed": CHANGED, "parts": [PART]}],
    **NUMBERS,
}
# A full delta whose base is not there to be compared with, on a server newer than this client.
UNCOMPARED: dict[str, Any] = {
    **STATS,
    "layers": [{"layer": LAYER, "kind": "dense", **NUMBERS, "changed": None, "newer": 1}],
    "base_matches": False,
    "other_base": [LAYER],
}


def test_stats_are_asked_for_by_reference_and_read_in_full(drive: Any) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.raw_path.decode()))
        return httpx.Response(200, json=STATS)

    effect = drive(handler, "stats", "acme/sql@prod")
    assert sent == [("GET", "/v1/adapters/acme/sql%40prod/stats")]
    assert (effect.nnz, effect.density, effect.norm) == (5529, 0.01, 1.25)
    [layer] = effect.layers
    assert (layer.layer, layer.kind, layer.changed) == (LAYER, "element", CHANGED)
    [part] = layer.parts
    assert (part.name, part.nnz, part.changed) == ("q", 5000, CHANGED)
    assert effect.raw == STATS


def test_layer_that_was_not_compared_has_nothing_to_say_of_rounding(drive: Any) -> None:
    effect = drive(lambda _: httpx.Response(200, json=UNCOMPARED), "stats", "sql")
    [layer] = effect.layers
    assert (layer.changed, layer.parts, layer.raw["newer"]) == (None, (), 1)
    assert effect.raw["other_base"] == [LAYER]


def test_stats_of_nothing_are_an_error(drive: Any) -> None:
    body = {"error": {"message": "no such adapter"}}
    with pytest.raises(NotFound, match="no such adapter"):
        drive(lambda _: httpx.Response(404, json=body), "stats", "sql")


@pytest.mark.parametrize("missing", ["layers", "nnz", "density", "norm"])
def test_stats_of_another_form_are_unexpected(drive: Any, missing: str) -> None:
    body = {name: value for name, value in STATS.items() if name != missing}
    with pytest.raises(UnexpectedAnswer, match="stats"):
        drive(lambda _: httpx.Response(200, json=body), "stats", "sql")


@pytest.mark.parametrize("reference", ["", "a/../b"])
def test_stats_of_another_path_are_not_asked_for(drive: Any, reference: str) -> None:
    with pytest.raises(InvalidArgument):
        drive(lambda _: pytest.fail("it was sent"), "stats", reference)


@pytest.mark.parametrize(
    ("options", "is_sent"),
    [({}, False), ({"signature": None}, False), ({"signature": "c2lnbmVk"}, True)],
    ids=["none", "None", "given"],
)
def test_signature_is_sent_only_if_there_is_one(
    drive: Any, adapter_json: Any, tmp_path: Path, options: dict[str, Any], is_sent: bool
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"weights")
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(201, json=adapter_json)

    drive(handler, "upload", file, "sql", **options)
    [content] = sent
    assert (b'name="signature"' in content, b"c2lnbmVk" in content) == (is_sent, is_sent)
    assert b"weights" in content


class Server:
    """Knows one adapter and what it does; keeps what it was asked."""

    def __init__(self, adapter: dict[str, Any], stats: dict[str, Any]) -> None:
        self.adapter = adapter
        self.stats = stats
        self.requests: list[tuple[str, str, bytes]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append((request.method, path, request.content))
        is_stats = path.endswith("/stats")
        return httpx.Response(200, json=self.stats if is_stats else self.adapter)


@pytest.fixture
def server(adapter_json: dict[str, Any]) -> Server:
    adapter_json.pop("effect")
    return Server(adapter_json, STATS)


Intarsia = Callable[..., Result]


@pytest.fixture
def intarsia(server: Server, monkeypatch: pytest.MonkeyPatch) -> Intarsia:
    """Runs `intarsia adapters *args` against `server`."""
    transport = httpx.MockTransport(server)
    monkeypatch.setattr(commands, "Client", functools.partial(Client, transport=transport))
    return lambda *args: CliRunner().invoke(commands.adapters, args)


def _rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_show_measures_only_when_asked(intarsia: Intarsia, server: Server) -> None:
    intarsia("show", "sql")
    assert [path for _, path, _ in server.requests] == ["/v1/adapters/sql"]


def test_show_with_stats_asks_for_the_version_that_it_shows(
    intarsia: Intarsia, server: Server
) -> None:
    intarsia("show", "sql", "--stats")
    assert [path for _, path, _ in server.requests] == [
        "/v1/adapters/sql",
        "/v1/adapters/sql@3/stats",
    ]


def test_stats_are_shown_by_layer_and_part(intarsia: Intarsia) -> None:
    rows = _rows(intarsia("show", "sql", "--stats"))
    assert ["layer", "kind", "entries", "density", "norm", "in", "bf16"] in rows
    assert [LAYER, "element", "5,529", "1.000%", "1.25", "87.5%"] in rows
    assert ["q", "5,000", "2.000%", "1", "87.5%"] in rows
    assert ["all", "5,529", "1.000%", "1.25"] in rows


def test_column_of_rounding_is_left_out_where_nothing_was_compared(
    intarsia: Intarsia, server: Server
) -> None:
    server.stats = UNCOMPARED
    rows = _rows(intarsia("show", "sql", "--stats"))
    assert ["layer", "kind", "entries", "density", "norm"] in rows
    assert [LAYER, "dense", "5,529", "1.000%", "1.25"] in rows


def test_json_with_stats_has_both_answers(intarsia: Intarsia, server: Server) -> None:
    shown = json.loads(intarsia("show", "sql", "--stats", "--json").stdout)
    assert shown == {**server.adapter, "effect": STATS}


def test_signature_comes_from_its_file(intarsia: Intarsia, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"x")
    (tmp_path / "a.sig").write_text("  c2lnbmVk\n")
    arguments = ("upload", str(tmp_path / "a.zip"), "--name", "sql")
    result = intarsia(*arguments, "--signature", str(tmp_path / "a.sig"))
    assert result.exit_code == 0, result.output
    [(_, _, content)] = server.requests
    assert b'name="signature"\r\n\r\nc2lnbmVk\r\n' in content
    intarsia(*arguments)
    assert b"signature" not in server.requests[1][2]


def test_signature_file_that_is_not_there_is_a_usage_error(
    intarsia: Intarsia, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(b"x")
    result = intarsia(
        "upload", str(tmp_path / "a.zip"), "--name", "sql", "--signature", str(tmp_path / "no")
    )
    assert (result.exit_code, server.requests) == (2, [])
