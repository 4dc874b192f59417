"""Merges named in requests: the merge itself, made once, kept by recipe, and told."""

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import RunningServer, running_server
from tiny_adapters import make_adapter

from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import METHODS
from server.adapters.composition import prototypes_id

NAMES = {"one": "element", "two": "block 1x16", "three": "element"}
WEIGHTED: list[dict[str, Any]] = [
    {"id": "one", "weight": 0.5},
    {"id": "two"},
    {"id": "three", "weight": -1.5},
]
SPECIAL: Mapping[str, dict[str, Any]] = {
    "metrics_weighted": {"values": [1.0, 2.0, 3.0]},
    "dare_linear": {"seed": 3},
    "dare_ties": {"seed": 3},
    "della": {"seed": 3},
}


@pytest.fixture(scope="module")
def server(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """Three adapters of two kinds."""
    with running_server(tiny_base) as started:
        for seed, (name, kind) in enumerate(NAMES.items()):
            started.publish(name, kind, seed + 200)
        running.append(started)
        yield started
        running.remove(started)


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"prompt": "setting", "max_tokens": 6, "temperature": 0, "logprobs": 3, **fields}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response


def choice(response: httpx.Response) -> Any:
    return response.json()["choices"][0]


def members_of(method: str) -> list[dict[str, Any]]:
    return WEIGHTED[: min(3, METHODS[method].max_members)]


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_in_a_request_is_the_merge_that_is_kept(http: httpx.Client, method: str) -> None:
    adapters, merge = members_of(method), {"method": method, **SPECIAL.get(method, {})}
    kept = {"name": f"kept-{method.replace('_', '-')}", "adapters": adapters, "merge": merge}
    made = http.post("/v1/merges?wait=true", json=kept)
    assert made.status_code == 201, made.text
    asked = post(http, adapters=adapters, merge=merge)
    stored = post(http, model=made.json()["id"])
    is_pairs = "as=pairs" in asked.headers["x-intarsia-merge"]
    assert is_pairs is (method in ("linear", "average", "task_arithmetic"))
    if is_pairs:
        ours, theirs = choice(asked)["logprobs"], choice(stored)["logprobs"]
        assert ours["token_logprobs"] == pytest.approx(theirs["token_logprobs"], abs=1e-4)
    else:
        assert choice(asked) == choice(stored)
        assert asked.headers["x-intarsia-merge"].endswith(made.json()["metadata"]["recipe"])


def test_several_adapters_without_a_method_are_averaged_where_they_overlap(
    http: httpx.Client,
) -> None:
    asked = post(http, adapters=WEIGHTED)
    named = post(http, adapters=WEIGHTED, merge={"method": "overlap_average"})
    assert asked.headers["x-intarsia-merge"] == named.headers["x-intarsia-merge"]
    assert asked.headers["x-intarsia-merge"].startswith(
        "overlap_average; as=merged; recipe=sha256:"
    )
    assert choice(asked) == choice(named)
    assert asked.json()["model"] == "overlap_average(one@1*0.5, two@1, three@1*-1.5)"
    assert asked.headers["x-intarsia-composition"] == "one@1*0.5+two@1+three@1*-1.5"


def test_chat_takes_a_merge_too(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "adapters": WEIGHTED}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert "overlap_average" in response.headers["x-intarsia-merge"]


def test_one_adapter_needs_no_merging(http: httpx.Client) -> None:
    alone = post(http, model="one")
    averaged = post(http, adapters=[{"id": "one"}], merge={"method": "overlap_average"})
    assert choice(averaged) == choice(alone)
    assert "as=pairs" in averaged.headers["x-intarsia-merge"]
    assert "x-intarsia-merge" not in alone.headers


def test_lorax_strategies_are_our_methods(http: httpx.Client) -> None:
    theirs = {"ids": ["one", "two"], "weights": [1, 2], "merge_strategy": "ties", "density": 0.5}
    ours = {"method": "ties", "density": 0.5, "sign": "count"}
    adapters = [{"id": "one", "weight": 1}, {"id": "two", "weight": 2}]
    lorax = post(http, merged_adapters={**theirs, "majority_sign_method": "frequency"})
    own = post(http, adapters=adapters, merge=ours)
    assert lorax.headers["x-intarsia-merge"] == own.headers["x-intarsia-merge"]
    assert choice(lorax) == choice(own)


def test_a_merge_is_made_once_for_all_who_ask(server: RunningServer, http: httpx.Client) -> None:
    counts = server.services.merged.counts
    before = counts.made["breadcrumbs"]
    fields = {"adapters": WEIGHTED, "merge": {"method": "breadcrumbs", "density": 0.75}}
    with ThreadPoolExecutor(8) as pool:
        texts = {choice(a)["text"] for a in pool.map(lambda _: post(http, **fields), range(16))}
    turned = post(http, adapters=WEIGHTED[::-1], merge=fields["merge"])
    assert texts == {choice(turned)["text"]}
    assert counts.made["breadcrumbs"] == before + 1
    assert counts.foretold_seconds > 0


def test_a_sum_too_full_to_multiply_one_by_one_is_merged(
    server: RunningServer, http: httpx.Client
) -> None:
    names = [f"full-{index}" for index in range(6)]
    for index, name in enumerate(names):
        server.upload(make_adapter(server.base, "element", index, keep_ratio=0.5), name)
    asked = post(http, adapters=[{"id": name} for name in names], merge={"method": "linear"})
    assert "as=merged" in asked.headers["x-intarsia-merge"]
    few = post(http, adapters=[{"id": name} for name in names[:2]], merge={"method": "linear"})
    assert "as=pairs" in few.headers["x-intarsia-merge"]


def test_running_requests_go_on_while_a_merge_is_made(
    server: RunningServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    merge = server.services.merged._merge

    def hang(recipe: Recipe) -> Any:
        assert go_on.wait(20)
        return merge(recipe)

    monkeypatch.setattr(server.services.merged, "_merge", hang)
    with ThreadPoolExecutor(1) as pool:
        fields = {"adapters": WEIGHTED, "merge": {"method": "magnitude_prune", "density": 0.4}}
        waiting = pool.submit(post, http, **fields)
        assert [post(http, model="one").status_code for _ in range(3)] == [200] * 3
        assert not waiting.done()
        go_on.set()
        waiting.result()


def test_a_merge_that_fails_tells_why_and_is_tried_anew(
    server: RunningServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"adapters": WEIGHTED, "merge": {"method": "ties", "density": 0.3}, "prompt": "x"}
    with monkeypatch.context() as patch:
        patch.setattr(server.services.merged, "_merge", _fail)
        assert http.post("/v1/completions", json=fields).status_code == 500
    assert http.post("/v1/completions", json=fields).status_code == 200


def test_deleting_a_member_frees_what_was_merged_from_it(
    server: RunningServer, http: httpx.Client
) -> None:
    server.publish("leaving", seed=300)
    post(http, adapters=[{"id": "leaving"}, {"id": "one"}])
    memory = server.services.memory
    before = memory.device.num_bytes, memory.host.num_bytes
    gone = http.delete("/v1/adapters/leaving").json()
    after = memory.device.num_bytes, memory.host.num_bytes
    freed = gone["bytes_freed"]
    assert (freed["device"], freed["host"]) == (before[0] - after[0], before[1] - after[1])
    assert freed["device"] > 0


# Through the mask of a member


def test_a_merge_is_seen_through_the_mask_of_an_adapter(
    server: RunningServer, http: httpx.Client
) -> None:
    adapters = [{"id": "one"}, {"id": "three"}]
    through = post(http, adapters=adapters, merge={"through_mask_of": "one"})
    whole = post(http, adapters=adapters)
    assert choice(through) != choice(whole)
    digest = server.services.store.resolve("one").digest
    assert through.headers["x-intarsia-merge"].endswith(f"; through={digest}")
    assert "through one@1" in through.json()["model"]


def test_one_adapter_through_its_own_mask_is_itself(http: httpx.Client) -> None:
    alone = choice(post(http, model="one"))["logprobs"]["token_logprobs"]
    through = post(http, adapters=[{"id": "one"}], merge={"through_mask_of": "one"})
    assert choice(through)["logprobs"]["token_logprobs"] == pytest.approx(alone, abs=1e-5)


def _fail(recipe: Recipe) -> Any:
    raise OSError("disk")


# Routed by the token


def test_arrow_routes_among_adapters_without_merging(
    server: RunningServer, http: httpx.Client
) -> None:
    made = server.services.merged.counts.made.total()
    routed = post(
        http, adapters=WEIGHTED, merge={"method": "arrow", "temperature": 0.5, "top_k": 2}
    )
    assert routed.headers["x-intarsia-merge"] == "arrow; as=routed"
    assert routed.json()["model"] == "arrow(one@1*0.5, two@1, three@1*-1.5)"
    assert server.services.merged.counts.made.total() == made
    warmer = post(http, adapters=WEIGHTED, merge={"method": "arrow", "temperature": 50.0})
    assert choice(routed)["logprobs"] != choice(warmer)["logprobs"]
    alone = post(http, adapters=WEIGHTED[1:2], merge={"method": "arrow"})
    assert choice(alone) == choice(post(http, model="two"))


@pytest.mark.parametrize(
    ("adapters", "fields", "param"),
    [
        (WEIGHTED, {"temperature": 0}, "merge.temperature"),
        (WEIGHTED, {"temperature": float("nan")}, "merge.temperature"),
        (WEIGHTED, {"temperature": "1"}, "merge.temperature"),
        (WEIGHTED, {"top_k": 0}, "merge.top_k"),
        (WEIGHTED, {"top_k": 1.5}, "merge.top_k"),
        (WEIGHTED, {"density": 0.5}, "merge.density"),
        (WEIGHTED[:1] * 2, {}, "adapters"),
    ],
)
def test_arrow_refuses_by_field(
    http: httpx.Client, adapters: list[dict[str, Any]], fields: dict[str, Any], param: str
) -> None:
    body = {"prompt": "x", "adapters": adapters, "merge": {"method": "arrow", **fields}}
    content = json.dumps(body)  # NaN and all
    headers = {"content-type": "application/json"}
    response = http.post("/v1/completions", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_prototypes_go_with_their_adapter(server: RunningServer, http: httpx.Client) -> None:
    server.publish("routed", seed=301)
    post(http, adapters=[{"id": "routed"}, {"id": "one"}], merge={"method": "arrow"})
    digest = server.services.store.resolve("routed").digest
    assert server.services.memory.status(prototypes_id(digest)).device_bytes > 0
    http.delete("/v1/adapters/routed")
    assert server.services.memory.status(prototypes_id(digest)).device_bytes == 0


def test_routers_are_listed_beside_the_methods(http: httpx.Client) -> None:
    listed = http.get("/v1/merge-methods").json()
    assert [router["name"] for router in listed["routers"]] == ["arrow"]
