"""Merges and jobs over either client, and `intarsia adapters merge`."""

import functools
import json
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from intarsia_client import AdapterWeight, Client, InvalidArgument, commands, merging
from intarsia_client.commands import member
from intarsia_client.merging import setting

JOB = {
    "id": "job-1",
    "object": "job",
    "kind": "merge",
    "status": "queued",
    "progress": 0.0,
    "request": {},
    "result": None,
    "error": None,
    "created": 1.0,
    "updated": 2.0,
}
DONE = {**JOB, "status": "succeeded", "progress": 1.0, "result": {"id": "both@1"}}
FAILED = {**JOB, "status": "failed", "error": {"message": "too large", "code": "merge_too_large"}}
METHOD = {
    "name": "ties",
    "summary": "s",
    "paper": "p",
    "parameters": [
        {"name": "density", "kind": "number", "default": 0.2, "range": "r", "meaning": "m"}
    ],
    "min_adapters": 1,
    "max_adapters": 64,
    "takes_seed": False,
    "exactness": "bits",
}
MEMBERS = [AdapterWeight("sql@3", 0.5), AdapterWeight("ns/x")]
MEMBERS_JSON = [{"id": "sql@3", "weight": 0.5}, {"id": "ns/x", "weight": 1.0}]


@pytest.mark.parametrize("method", ["merge", "start_merge"])
@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, {}),
        ({"merge": None, "metadata": None}, {}),
        (
            {"merge": {"method": "ties", "density": 0.2}},
            {"merge": {"method": "ties", "density": 0.2}},
        ),
        ({"metadata": {"task": "sql"}}, {"metadata": {"task": "sql"}}),
    ],
    ids=str,
)
def test_merge_sends_what_was_given(
    drive: Any, adapter_json: Any, method: str, options: dict[str, Any], body: dict[str, Any]
) -> None:
    sent = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, str(request.url.path), dict(request.url.params)))
        assert json.loads(request.content) == {"name": "both", "adapters": MEMBERS_JSON, **body}
        return httpx.Response(201, json={**adapter_json, **JOB, "id": "the-id"})

    answer = drive(handler, method, "both", MEMBERS, **options)
    assert sent == [("POST", "/v1/merges", {"wait": "true"} if method == "merge" else {})]
    assert answer.id == "the-id"
    assert hasattr(answer, "has_ended") == (method == "start_merge")


def test_methods_are_read(drive: Any) -> None:
    (method,) = drive(lambda _: httpx.Response(200, json={"data": [METHOD]}), "merge_methods")
    assert (method.name, method.exactness, method.parameters[0].default) == ("ties", "bits", 0.2)


@pytest.mark.parametrize(
    ("method", "verb", "given", "path"),
    [
        ("job", "GET", ["job-1"], "/v1/jobs/job-1"),
        ("cancel", "DELETE", ["a/b?"], "/v1/jobs/a%2Fb%3F"),
    ],
)
def test_job_is_read(drive: Any, method: str, verb: str, given: list[str], path: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.raw_path.decode()) == (verb, path)
        return httpx.Response(200, json=DONE)

    job = drive(handler, method, *given)
    assert (job.status, job.progress, job.result) == ("succeeded", 1.0, {"id": "both@1"})
    assert job.has_ended


def test_jobs_are_listed(drive: Any) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"limit": "5"}
        return httpx.Response(200, json={"data": [JOB, DONE]})

    assert [job.has_ended for job in drive(handler, "jobs", 5)] == [False, True]


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_id_that_would_name_another_path_is_refused(drive: Any, job_id: str) -> None:
    with pytest.raises(InvalidArgument, match="does not name a job"):
        drive(lambda _: pytest.fail("it was sent"), "cancel", job_id)


@pytest.mark.parametrize(
    ("text", "reference", "weight"),
    [
        ("sql", "sql", 1.0),
        ("sql=0.5", "sql", 0.5),
        ("ns/sql@3=-1e-2", "ns/sql@3", -0.01),
        ("sql@sha256:12", "sql@sha256:12", 1.0),
        ("sql@sha256:12=2", "sql@sha256:12", 2.0),
    ],
)
def test_weight_follows_an_equals_sign(text: str, reference: str, weight: float) -> None:
    assert member(text) == AdapterWeight(reference, weight)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1.0), ("a=1,2", [1.0, 2.0]), ("a=count", "count"), ("a=b=c", "b=c"), ("a=", "")],
)
def test_parameter_is_a_number_a_list_or_a_word(text: str, value: Any) -> None:
    assert setting(text) == ("a", value)


class Server:
    """Answers looks at its job one after the other."""

    def __init__(self, adapter: dict[str, Any], *looks: dict[str, Any]) -> None:
        self.adapter, self.looks = adapter, list(looks)
        self.bodies: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", "/v1/merges":
                self.bodies.append(json.loads(request.content))
                return httpx.Response(202, json=JOB)
            case "GET", "/v1/jobs/job-1":
                return httpx.Response(200, json=self.looks.pop(0))
            case "GET", "/v1/adapters/both@1":
                return httpx.Response(200, json=self.adapter)
        pytest.fail(f"{request.method} {request.url}")


def run(monkeypatch: pytest.MonkeyPatch, server: Server, *args: str) -> Result:
    client = functools.partial(Client, transport=httpx.MockTransport(server))
    monkeypatch.setattr(commands, "Client", client)
    monkeypatch.setattr(merging, "LOOK_S", 0)
    return CliRunner().invoke(commands.adapters, ["merge", *args])


def test_command_names_the_job(monkeypatch: pytest.MonkeyPatch, adapter_json: Any) -> None:
    server = Server(adapter_json)
    result = run(monkeypatch, server, "both", "a=0.5", "b", "--method", "ties", "-p", "density=0.2")
    assert result.output == "job-1 queued\n"
    members = [{"id": "a", "weight": 0.5}, {"id": "b", "weight": 1.0}]
    how = {"method": "ties", "density": 0.2}
    assert server.bodies == [{"name": "both", "adapters": members, "merge": how}]


def test_command_waits_for_the_adapter(monkeypatch: pytest.MonkeyPatch, adapter_json: Any) -> None:
    server = Server(adapter_json, {**JOB, "status": "running", "progress": 0.5}, DONE)
    result = run(monkeypatch, server, "both", "a", "b", "--wait", "--json")
    assert json.loads(result.output) == adapter_json
    assert server.bodies == [
        {"name": "both", "adapters": [*({"id": x, "weight": 1.0} for x in "ab")]}
    ]


@pytest.mark.parametrize(
    ("end", "said"), [(FAILED, "too large"), ({**JOB, "status": "cancelled"}, "cancelled")]
)
def test_command_says_why_no_adapter_comes(
    monkeypatch: pytest.MonkeyPatch, adapter_json: Any, end: dict[str, Any], said: str
) -> None:
    result = run(monkeypatch, Server(adapter_json, end), "both", "a", "--wait")
    assert (result.exit_code, result.output) == (1, f"Error: job-1: {said}\n")


@pytest.mark.parametrize(
    "arguments", [["both", "a=heavy"], ["both", "a", "-p", "density"], ["both"]]
)
def test_command_refuses_mistakes(
    monkeypatch: pytest.MonkeyPatch, adapter_json: Any, arguments: list[str]
) -> None:
    server = Server(adapter_json)
    assert run(monkeypatch, server, *arguments).exit_code == 2
    assert not server.bodies
