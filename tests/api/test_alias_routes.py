"""Aliases and lists over HTTP: what is asked by alias is served by one version, told by name."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from intarsia_client import Client, Conflict, NotFound
from servers import RunningServer, paused_engine

Ask = Callable[..., Any]


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """A client; `moving@1` and `moving@2` differ, and are gone afterwards."""
    for seed in (70, 71):
        server.publish("moving", seed=seed)
    with Client(server.url) as client:
        yield client
        client.delete("moving", force=True)


def patch(http: httpx.Client, body: Any, reference: str = "moving") -> httpx.Response:
    return http.patch(f"/v1/adapters/{reference}", json=body)


@pytest.fixture
def versions(client: Client) -> tuple[int, int]:
    """The numbers of the two versions; numbers are never used twice."""
    first, second = client.change("moving").versions
    return first.version, second.version


def test_alias_is_served_by_its_version_wherever_a_reference_stands(
    client: Client, http: httpx.Client, complete: Ask, versions: tuple[int, int]
) -> None:
    first, second = versions
    texts = {v: complete(model=f"moving@{v}")["choices"][0]["text"] for v in versions}
    assert texts[first] != texts[second]
    for version in versions:
        state = client.change("moving", aliases={"prod": version})
        assert state.aliases == {"prod": version}
        answer = complete(model="moving@prod")
        assert (answer["model"], answer["choices"][0]["text"]) == (
            f"moving@{version}",
            texts[version],
        )
        composed = complete(adapters=[{"id": "moving@prod"}])
        assert composed["choices"][0]["text"] == texts[version]
        assert client.adapter("moving@prod").id == f"moving@{version}"
        assert http.get("/v1/models/moving@prod").json()["id"] == "moving@prod"
        digest = client.adapter("moving@prod").digest
        assert http.get("/v1/adapters/moving@prod/file").headers["etag"] == f'"{digest}"'


@pytest.mark.parametrize("by", ["user", "session_id", "header"])
def test_split_answers_the_same_user_with_the_same_version(
    client: Client, http: httpx.Client, versions: tuple[int, int], by: str
) -> None:
    client.change("moving", aliases={"prod": dict.fromkeys(versions, 2.0)})
    assert client.change("moving").aliases == {"prod": dict.fromkeys(versions, 0.5)}

    def served(key: str) -> str:
        field = {} if by == "header" else {by: key}
        headers = {"x-session-id": key} if by == "header" else {}
        body = {"model": "moving@prod", "prompt": "x", "max_tokens": 1, **field}
        answer = http.post("/v1/completions", json=body, headers=headers)
        assert answer.json()["model"] == answer.headers["x-intarsia-composition"]
        assert "x-intarsia-ignored-fields" not in answer.headers
        return str(answer.json()["model"])

    keys = [f"key-{number}" for number in range(12)]
    first = [served(key) for key in keys]
    assert set(first) == {f"moving@{version}" for version in versions}
    assert [served(key) for key in keys] == first


def test_user_decides_before_the_session_and_the_request_last(
    client: Client, http: httpx.Client, versions: tuple[int, int]
) -> None:
    client.change("moving", aliases={"prod": dict.fromkeys(versions, 1.0)})

    def served(request_id: str, **fields: str) -> str:
        body = {"model": "moving@prod", "prompt": "x", "max_tokens": 1, **fields}
        headers = {"x-request-id": request_id}
        return str(http.post("/v1/completions", json=body, headers=headers).json()["model"])

    many = [str(number) for number in range(12)]
    assert len({served(one) for one in many}) == 2
    assert len({served(one, user="u", session_id=one) for one in many}) == 1


def test_request_under_way_keeps_the_version_that_it_began_with(
    client: Client,
    http: httpx.Client,
    server: RunningServer,
    complete: Ask,
    versions: tuple[int, int],
) -> None:
    first, second = versions
    client.change("moving", aliases={"prod": first})
    expected = complete(model=f"moving@{first}", max_tokens=20)["choices"][0]["text"]
    body = {"model": "moving@prod", "prompt": "setting", "max_tokens": 20, "temperature": 0}
    with paused_engine(server) as proceed:
        request = http.build_request("POST", "/v1/completions", json={**body, "stream": True})
        with Client(server.url) as other, _sent(server, request) as answers:
            server.wait_for(**{"answers under way": 1})
            other.change("moving", aliases={"prod": second})
            assert other.delete(f"moving@{first}", wait=0).state == "draining"
            proceed.set()
            chunks = answers()
    assert {chunk["model"] for chunk in chunks} == {f"moving@{first}"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert complete(model="moving@prod")["model"] == f"moving@{second}"


@contextmanager
def _sent(server: RunningServer, request: httpx.Request) -> Iterator[Callable[[], list[Any]]]:
    """Send in a thread; the function waits for the answer's chunks."""
    with ThreadPoolExecutor(1) as pool, server.http() as http:
        answer = pool.submit(http.send, request)
        yield lambda: [
            json.loads(line.removeprefix("data: "))
            for line in answer.result().text.splitlines()
            if line.startswith("data: {")
        ]


def test_rollback_returns_and_then_has_nowhere_to_go(
    client: Client, versions: tuple[int, int]
) -> None:
    for version in versions:
        client.change("moving", aliases={"prod": version})
    assert client.rollback("moving", "prod").aliases == {"prod": versions[0]}
    with pytest.raises(Conflict, match="no earlier target"):
        client.rollback("moving", "prod")
    with pytest.raises(NotFound, match="moving@other"):
        client.rollback("moving", "other")


def test_version_in_use_is_deleted_only_by_force(client: Client, versions: tuple[int, int]) -> None:
    client.change("moving", aliases={"prod": versions[0]})
    for reference in ("moving", "moving@prod", f"moving@{versions[0]}"):
        with pytest.raises(Conflict, match="prod"):
            client.delete(reference)
    assert client.delete("moving@prod", force=True).deleted == (f"moving@{versions[0]}",)
    assert client.change("moving").aliases == {}


def test_name_is_shown_with_its_aliases_and_pin(
    client: Client, http: httpx.Client, versions: tuple[int, int]
) -> None:
    first, second = versions
    split = {first: 0.75, second: 0.25}
    client.change("moving", aliases={"a": second, "b": split}, pinned=True)
    client.change(f"moving@{first}", metadata={"task": "Shown", "tags": ["t"]})
    shown = http.get(f"/v1/adapters/moving@{first}").json()
    assert shown["aliases"] == {"a": second, "b": {str(first): 0.75, str(second): 0.25}}
    assert (shown["pinned"], shown["metadata"]["task"]) == (True, "Shown")
    assert [adapter.id for adapter in client.adapters(tag="t", q="SHO")] == [f"moving@{first}"]
    client.change("moving", pinned=False)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"aliases": {"prod": 0}}, 400, "aliases.prod"),
        ({"aliases": {"prod": True}}, 400, "aliases.prod"),
        ({"aliases": {"prod": "1"}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {}}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {"01": 1}}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {"1": 0}}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {"1": -1}}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {"1": 1e7}}}, 400, "aliases.prod"),
        ({"aliases": {"prod": {str(n): 1 for n in range(1, 70)}}}, 400, "aliases.prod"),
        ({"aliases": []}, 400, "aliases"),
        ({"aliases": {"3": 1}}, 400, "alias"),
        ({"aliases": {"prod": 999}}, 404, None),
        ({"aliases": {"prod": None}}, 404, None),
        ({"alias": "prod"}, 400, "alias"),
        ({"pinned": 1}, 400, "pinned"),
        ({"metadata": {"tags": "x"}}, 422, "metadata.tags"),
        ([], 400, None),
    ],
)
def test_change_that_cannot_be_made_names_the_fault(
    client: Client, http: httpx.Client, body: Any, status: int, param: str | None
) -> None:
    before = client.change("moving").raw
    response = patch(http, body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    assert client.change("moving").raw == before


def test_weight_that_is_no_number_is_refused(client: Client, http: httpx.Client) -> None:
    for weight in ("NaN", "Infinity", "1e999"):
        content = f'{{"aliases": {{"prod": {{"1": {weight}}}}}}}'
        headers = {"content-type": "application/json"}
        response = http.patch("/v1/adapters/moving", content=content, headers=headers)
        assert response.status_code == 400


def test_aliases_of_a_version_are_refused(client: Client, http: httpx.Client) -> None:
    assert patch(http, {"aliases": {"prod": 1}}, "moving@1").json()["error"]["param"] == "aliases"
    assert patch(http, {"pinned": True}, "moving@1").json()["error"]["param"] == "pinned"
    assert patch(http, {"pinned": True}, "nobody").status_code == 404


def test_lists_are_filtered_and_models_are_the_latest(
    client: Client, server: RunningServer, http: httpx.Client, versions: tuple[int, int]
) -> None:
    wanted = [f"moving@{version}" for version in versions]
    for filters in ({"name": "mov"}, {"q": "OVIN"}, {"name": "moving", "kind": "element"}):
        assert [a.id for a in client.adapters(page_size=1, **filters)] == wanted
    assert list(client.adapters(name="moving", kind="block")) == []
    models = [model for model in client.models() if model.id == "moving"]
    assert [model.root for model in models] == [client.adapter("moving").digest]
    assert http.get("/v1/adapters", params={"q": "x" * 201}).status_code == 400


def test_alias_moved_again_and_again_mixes_no_versions(
    client: Client, server: RunningServer, versions: tuple[int, int]
) -> None:
    body = {"model": "moving@prod", "prompt": "setting", "max_tokens": 6, "temperature": 0}
    digests = {f"moving@{v}": client.adapter(f"moving@{v}").digest for v in versions}
    client.change("moving", aliases={"prod": versions[0]})
    with server.http() as http:
        texts = {
            name: http.post("/v1/completions", json={**body, "model": name}).json()["choices"][0][
                "text"
            ]
            for name in digests
        }

    def ask(_: int) -> tuple[str, str, str]:
        with server.http() as http:
            answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 200
        model, choice = answer.json()["model"], answer.json()["choices"][0]
        return model, answer.headers["x-intarsia-digest"], choice["text"]

    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(ask, range(48))
        for number in range(50):
            client.change("moving", aliases={"prod": versions[number % 2]})
        for model, digest, text in asked:
            assert (digests[model], texts[model]) == (digest, text)
