"""The load generator, in its own process, against servers that answer well and badly."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import DictReader
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from servers import BASE_NAME, running_server
from tiny_models import make_tiny_checkpoint

from loadtests.bench.summary import Summary, summarize
from loadtests.bodies import body
from loadtests.generator.plan import Plan, Planned
from loadtests.workload import Length, Workload, asks

TOKENS = 3
GENERATOR = (sys.executable, "-m", "loadtests.generator")
LIMIT_S = 60


class _Handler(BaseHTTPRequestHandler):
    """Answers as `server.answer` says: it writes lines through `send`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        self.server.answer(self, asked)  # type: ignore[attr-defined]

    def begin(self, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        return


Answering = Callable[[_Handler, dict[str, Any]], None]


def _whole(handler: _Handler, asked: dict[str, Any]) -> None:
    _some(handler, asked["max_tokens"], asked["max_tokens"])
    handler.send("[DONE]")
    handler.end()


def _some(handler: _Handler, sent: int, told: int) -> None:
    handler.begin()
    for _ in range(sent):
        handler.send(json.dumps({"choices": [{"text": "a"}]}))
    handler.send(json.dumps({"choices": [], "usage": {"completion_tokens": told}}))


def _refused(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.begin(500)
    handler.end()


def _cut_between_lines(handler: _Handler, asked: dict[str, Any]) -> None:
    """The whole of the tokens, but not the end."""
    _some(handler, asked["max_tokens"], asked["max_tokens"])
    handler.close_connection = True


def _cut_politely(handler: _Handler, asked: dict[str, Any]) -> None:
    _some(handler, asked["max_tokens"], asked["max_tokens"])
    handler.end()


def _short(handler: _Handler, asked: dict[str, Any]) -> None:
    _some(handler, 1, 1)
    handler.send("[DONE]")
    handler.end()


def _gone_wrong(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.begin()
    handler.send(json.dumps({"error": {"message": "a step that fails"}}))
    handler.send("[DONE]")
    handler.end()


def _no_answer(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.close_connection = True


@contextmanager
def _server(answer: Answering) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answer = answer  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _played(plan: Plan, folder: Path) -> dict[str, Any]:
    plan.write(folder / "plan.json")
    command = [*GENERATOR, str(folder / "plan.json"), "--out", str(folder)]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    found: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return found


def _plan(url: str, requests: int = 4, users: int = 2, **changed: Any) -> Plan:
    load = Workload(requests, Length(5), Length(TOKENS), at_once=users)
    bodies = [body(ask, BASE_NAME) for ask in asks(load, 0)]
    return Plan(url, users, [Planned(0.0, {**each, **changed}) for each in bodies])


FAILURES: dict[Answering, str] = {
    _refused: "HTTP 500",
    _cut_between_lines: "HTTPParseError",
    _cut_politely: "cut stream",
    _short: f"1 tokens, not {TOKENS}",
    _gone_wrong: "error in stream",
    _no_answer: "HTTPConnectionClosed",
}


def test_what_fails_is_a_failure_and_no_fast_answer(tmp_path: Path) -> None:
    """One in two is answered well; the others take part in no number but the count of failures."""
    turns = chain.from_iterable((_whole, failing) for failing in FAILURES)
    with _server(lambda handler, asked: next(turns)(handler, asked)) as url:
        result = _played(_plan(url, 2 * len(FAILURES), users=1), tmp_path)
    found = summarize(result)
    assert found.requests == 2 * len(FAILURES)
    assert found.failures == dict.fromkeys(FAILURES.values(), 1)
    whole = [each for each in result["answers"] if each["error"] is None]
    assert found.tokens_per_s == pytest.approx(len(FAILURES) * TOKENS / found.seconds)
    assert found.first_token_p95_ms <= max(each["first_token_ms"] for each in whole)
    with (tmp_path / "stats.csv").open() as file:
        table = {row["Name"]: row for row in DictReader(file)}
    assert table["whole answer"]["Failure Count"] == str(len(FAILURES))
    assert table["first token"]["Request Count"] == str(len(FAILURES))


def test_a_server_that_is_gone_fails_every_request(tmp_path: Path) -> None:
    with _server(_whole) as url:
        pass
    found = summarize(_played(_plan(url), tmp_path))
    assert (found.requests, found.failed, found.tokens_per_s) == (4, 4, 0.0)


def test_nobody_asks_before_the_time(tmp_path: Path) -> None:
    with _server(_whole) as url:
        plan = _plan(url, requests=2)
        late = Plan(url, 2, [plan.asks[0], Planned(0.3, plan.asks[1].body)])
        early, last = sorted(each["sent_ms"] for each in _played(late, tmp_path)["answers"])
    assert early < 300 <= last


def test_real_answers_are_counted_and_timed_in_order(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "tiny")
    with running_server(base) as server:
        plan = _plan(server.url, requests=6, prompt=[5, 6, 7, 8])
        result = _played(plan, tmp_path)
        server.assert_idle()
    found = summarize(result)
    assert found.failures == {}
    assert found.requests == len(result["answers"]) == 6
    for answer in result["answers"]:
        assert (answer["prompt_tokens"], answer["tokens"]) == (4, TOKENS)
        assert 0 < answer["first_token_ms"] <= answer["total_ms"]
        assert len(answer["gaps_ms"]) < TOKENS
        gaps = sum(answer["gaps_ms"])
        assert answer["first_token_ms"] + gaps <= answer["total_ms"] + 0.1
    assert isinstance(found, Summary)
    assert found.tokens_per_s == pytest.approx(6 * TOKENS / found.seconds)
    assert result["cpu_s"] > 0
