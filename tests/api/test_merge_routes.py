"""`/v1/merges`, `/v1/jobs`: merges that are kept, and a clear 4xx for every bad input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from intarsia_client import AdapterWeight, Client
from servers import RunningServer, running_server
from tiny_adapters import DOWN, QKV, make_adapter

from adapters_store.adapter import BaseIdentity, BaseLayer
from adapters_store.errors import AdapterNotFound
from adapters_store.ingest import AdapterStore
from adapters_store.merging.earlier import Earlier
from adapters_store.merging.merge import OnLayer, merge
from adapters_store.merging.merger import Merger
from adapters_store.merging.reader import MemoryReader
from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import METHODS
from adapters_store.validation import Limits
from server.errors import error_body

MEMBERS: list[dict[str, Any]] = [
    {"id": "m/a", "weight": 0.5},
    {"id": "m/b"},
    {"id": "m/c@1", "weight": -2.0},
]


@pytest.fixture(scope="module")
def merging(tiny_base: Path, running: list[RunningServer]) -> Iterator[RunningServer]:
    """A server with three adapters to merge."""
    with running_server(tiny_base) as started:
        for seed, kind in enumerate(("element", "block 16x16", "low_rank")):
            started.publish(f"m/{'abc'[seed]}", kind, seed)
        running.append(started)
        yield started
        running.remove(started)


@pytest.fixture
def http(merging: RunningServer) -> Iterator[httpx.Client]:
    with merging.http() as client:
        yield client


def post(http: httpx.Client, query: str = "", **fields: Any) -> httpx.Response:
    return http.post(f"/v1/merges{query}", json={"name": "merged", "adapters": MEMBERS, **fields})


def made(response: httpx.Response, status: int = 201) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def test_merge_is_an_ordinary_version(http: httpx.Client, merging: RunningServer) -> None:
    shown = made(post(http, "?wait=true", name="ordinary", metadata={"task": "both"}))
    store = merging.services.store
    digests = [store.resolve(member["id"]).digest for member in MEMBERS]
    weights = [member.get("weight", 1.0) for member in MEMBERS]
    recipe = Recipe.build("overlap_average", {}, zip(digests, weights, strict=True))
    expected = merge(recipe, {digest: MemoryReader(store.load(digest)) for digest in digests})
    assert (shown["id"], shown["digest"]) == ("ordinary@1", expected.digest)
    assert shown["metadata"] == {
        "task": "both",
        "lineage": recipe.json(),
        "recipe": recipe.digest,
    }
    assert shown["effect"]["nnz"] == expected.nnz
    body = {"model": "ordinary", "prompt": "setting", "max_tokens": 2}
    assert made(http.post("/v1/completions", json=body), 200)["choices"]


def test_the_same_recipe_answers_the_version_that_exists(http: httpx.Client) -> None:
    first = made(post(http, "?wait=true", name="again"))
    second = made(post(http, "?wait=true", name="again", adapters=MEMBERS[::-1]), 200)
    assert second == {**first, "effect": second["effect"]}
    third = made(post(http, "?wait=true", name="again", merge={"method": "linear"}))
    assert third["id"] == "again@2"


def test_merge_is_a_job_that_ends_with_the_version(http: httpx.Client) -> None:
    response = post(http, name="job")
    job = made(response, 202)
    assert (job["kind"], job["status"], job["result"], job["error"]) == (
        "merge",
        "queued",
        None,
        None,
    )
    assert job["predicted"]["entries"] > 0
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    ended = made(post(http, "?wait=true", name="job"), 200)  # behind it in the queue
    found = made(http.get(f"/v1/jobs/{job['id']}"), 200)
    assert (found["status"], found["progress"], found["error"]) == ("succeeded", 1.0, None)
    assert found["result"] == {"id": "job@1", "digest": ended["digest"], "created": True}
    newest = made(http.get("/v1/jobs?limit=2"), 200)["data"]
    assert newest[1] == found


def test_job_that_has_ended_cannot_be_cancelled(http: httpx.Client) -> None:
    made(post(http, "?wait=true", name="ended"))
    (job,) = made(http.get("/v1/jobs?limit=1"), 200)["data"]
    assert made(http.delete(f"/v1/jobs/{job['id']}"), 200) == job


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_unknown_job_is_a_404(http: httpx.Client, verb: str) -> None:
    error = made(http.request(verb, "/v1/jobs/job-0"), 404)["error"]
    assert (error["code"], error["param"]) == ("job_not_found", "job")


def test_methods_are_the_table(http: httpx.Client) -> None:
    listed = made(http.get("/v1/merge-methods"), 200)
    assert [method["name"] for method in listed["data"]] == list(METHODS)
    assert listed["default"] in METHODS
    for method in listed["data"]:
        assert method.keys() >= {"summary", "paper", "parameters", "exactness", "takes_seed"}


def many(count: int) -> list[dict[str, Any]]:
    return [{"id": "m/a"}] * count


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"adapters": []}, 400, "adapters"),
        ({"adapters": many(65)}, 400, "adapters"),
        ({"adapters": many(1000)}, 400, "adapters"),
        ({"adapters": None}, 400, "adapters"),
        ({"adapters": [{"id": "nobody"}]}, 404, "adapters.0.id"),
        ({"adapters": [{"id": "m/a"}, {"id": "m/a@9"}]}, 404, "adapters.1.id"),
        ({"adapters": [{"id": "m/a"}, {"id": "No Name"}]}, 404, "adapters.1.id"),
        ({"adapters": [{"weight": 1.0}]}, 400, "adapters.0.id"),
        ({"adapters": [{"id": "m/a", "weight": "1"}]}, 400, "adapters.0.weight"),
        ({"adapters": [{"id": "m/a", "weight": 1e39}]}, 400, "adapters.0.weight"),
        ({"adapters": [{"id": "m/a", "wait": 1.0}]}, 400, "adapters.0.wait"),
        ({"merge": {"method": "magic"}}, 400, "merge.method"),
        ({"merge": {"method": ["linear"]}}, 400, "merge.method"),
        ({"merge": {"method": "linear", "densty": 0.2}}, 400, "merge.densty"),
        ({"merge": {"method": "linear", "seed": 1}}, 400, "merge.seed"),
        ({"merge": "linear"}, 400, "merge"),
        ({"name": "No Name"}, 400, "name"),
        ({"name": "tiny"}, 409, "name"),
        ({"name": "m/stats"}, 400, "name"),
        ({"name": None}, 400, "name"),
        ({"metadata": {"task": 5}}, 422, "metadata.task"),
        ({"metadata": {"lineage": "mine"}}, 400, "metadata.lineage"),
        ({"metadata": {"signed_by": "me"}}, 422, None),
        ({"metadata": {"recipe": "mine"}}, 422, None),
        ({"extra": 1}, 400, "extra"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_input_is_refused_by_its_field(
    http: httpx.Client, fields: dict[str, Any], status: int, param: str | None
) -> None:
    error = made(post(http, "?wait=true", **fields), status)["error"]
    assert param is None or error["param"] == param
    assert error["message"]


DENSE = [row for row in METHODS.values() if any(p.name == "density" for p in row.parameters)]


@pytest.mark.parametrize("density", [0, -0.1, 1.0001, "0.5", None, True, [0.5], 10**400])
def test_density_is_above_0_and_at_most_1(http: httpx.Client, density: Any) -> None:
    for row in DENSE:
        how = {"method": row.name, "density": density}
        error = made(post(http, merge=how), 400)["error"]
        assert error["param"] == "merge.density"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["weight", "density"])
def test_numbers_that_json_does_not_have_are_refused(
    http: httpx.Client, number: str, place: str
) -> None:
    weight, density = (number, "0.5") if place == "weight" else ("1.0", number)
    text = (
        f'{{"name": "x", "adapters": [{{"id": "m/a", "weight": {weight}}}],'
        f' "merge": {{"method": "magnitude_prune", "density": {density}}}}}'
    )
    response = http.post("/v1/merges", content=text, headers={"content-type": "application/json"})
    error = made(response, 400)["error"]
    assert error["param"] == ("adapters.0.weight" if place == "weight" else "merge.density")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        (r'"adapters": [{"id": "\ud800"}]', 404, "adapters.0.id"),
        (r'"adapters": [{"id": "m/a"}], "merge": {"\ud800": 1}', 400, r"merge.\ud800"),
    ],
)
def test_half_a_character_is_refused_as_any_other_text(
    http: httpx.Client, fields: str, status: int, param: str
) -> None:
    text = f'{{"name": "x", {fields}}}'
    response = http.post("/v1/merges", content=text, headers={"content-type": "application/json"})
    assert made(response, status)["error"]["param"] == param


def test_metadata_that_would_burden_every_list_is_refused(http: httpx.Client) -> None:
    error = made(post(http, metadata={"story": "x" * 70_000}), 422)["error"]
    assert error["code"] == "invalid_metadata"
    assert "65536" in error["message"]


def test_query_that_is_no_truth_is_refused(http: httpx.Client) -> None:
    assert made(post(http, "?wait=perhaps"), 400)["error"]["param"] == "wait"
    assert made(http.get("/v1/jobs?limit=0"), 400)["error"]["param"] == "limit"


def test_adapters_of_two_bases_are_a_conflict(http: httpx.Client, merging: RunningServer) -> None:
    """A registry may be shared by servers of different bases."""
    base = merging.base
    layers = {
        name: BaseLayer(layer.shape, f"sha256:{'e' * 64}") for name, layer in base.layers.items()
    }
    other = BaseIdentity("another-base", layers)
    store = AdapterStore.open(
        merging.settings.data_dir / "adapters", other, {}, Limits(1 << 20, 1 << 20)
    )
    store.publish(make_adapter(other, "element", 7), "other", {})
    store.close()
    jobs = made(http.get("/v1/jobs"), 200)
    for members in ([{"id": "m/a"}, {"id": "other"}], [{"id": "other"}]):
        error = made(post(http, "?wait=true", adapters=members), 409)["error"]
        assert (error["code"], error["param"]) == ("base_mismatch", "adapters")
    assert made(http.get("/v1/jobs"), 200) == jobs


@pytest.mark.parametrize("limit", [{"max_merge_bytes": 1000}, {"max_merge_seconds": 1e-9}])
def test_merge_that_would_cost_too_much_is_refused_before_it_begins(
    tiny_base: Path, limit: dict[str, Any]
) -> None:
    with running_server(tiny_base, **limit) as server, server.http() as http:
        server.publish("m/a")
        error = made(post(http, adapters=[{"id": "m/a"}]), 413)["error"]
        assert (error["code"], error["param"]) == ("merge_too_large", "adapters")
        assert "predicted" in error["message"]
        assert made(http.get("/v1/jobs"), 200)["data"] == []


def test_the_next_version_begins_with_the_layers_that_stay(
    http: httpx.Client, merging: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken over is the same bits, and a lineage that somebody else wrote is not used."""
    base = merging.base
    for seed, (name, layers) in enumerate(
        {"p/q": [QKV], "p/d": [DOWN], "p/b": [QKV, DOWN]}.items()
    ):
        merging.upload(make_adapter(base, "element", seed, layers), name)
    first = made(post(http, "?wait=true", name="grown", adapters=[{"id": "p/q"}, {"id": "p/b"}]))
    taken: list[frozenset[str]] = []
    real = Earlier.of

    def spy(*arguments: Any) -> Earlier:
        earlier = real(*arguments)
        taken.append(earlier.layers)
        return earlier

    monkeypatch.setattr(Earlier, "of", spy)
    members = [{"id": "p/q"}, {"id": "p/b"}, {"id": "p/d"}]
    grown = made(post(http, "?wait=true", name="grown", adapters=members))
    assert (grown["id"], taken) == ("grown@2", [frozenset({QKV})])
    anew = made(post(http, "?wait=true", name="anew", adapters=members))
    assert anew["digest"] == grown["digest"]
    forged = {"metadata": {"lineage": first["metadata"]["lineage"]}}
    made(http.patch("/v1/adapters/grown@2", json=forged), 200)
    made(post(http, "?wait=true", name="grown", adapters=members), 200)
    assert len(taken) == 1


def test_nobody_else_writes_the_recipe(http: httpx.Client) -> None:
    made(post(http, "?wait=true", name="mine"))
    change = {"metadata": {"recipe": "sha256:0"}}
    error = made(http.patch("/v1/adapters/mine", json=change), 422)["error"]
    assert error["param"] == "metadata.recipe"


def test_client_merges(merging: RunningServer) -> None:
    with Client(merging.url) as client:
        members = [AdapterWeight("m/a", 0.5), AdapterWeight("m/b")]
        merged = client.merge("by-client", members, merge={"method": "linear"})
        assert merged.id == "by-client@1"
        job = client.start_merge("by-client", members)
        assert job in client.jobs() or client.job(job.id).id == job.id
        assert {"linear", "overlap_average"} <= {row.name for row in client.merge_methods()}
        client.merge("by-client", members)  # behind it in the queue
        assert client.cancel(job.id).status == "succeeded"


def test_one_who_waits_is_told_what_went_wrong(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise AdapterNotFound("sha256:0")

    monkeypatch.setattr(Merger, "merge", gone)
    error = made(post(http, "?wait=true", name="failing"), 404)["error"]
    assert error == error_body(AdapterNotFound("sha256:0"))["error"]
    (job,) = made(http.get("/v1/jobs?limit=1"), 200)["data"]
    assert (job["status"], job["error"]) == ("failed", error)
    assert http.get("/v1/adapters/failing").status_code == 404


def test_one_who_waits_for_a_cancelled_job_is_told(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Merger.merge

    def cancelled(merger: Merger, recipe: Recipe, on_layer: OnLayer, **options: Any) -> Any:
        (job,) = made(http.get("/v1/jobs?limit=1"), 200)["data"]
        assert made(http.delete(f"/v1/jobs/{job['id']}"), 200)["status"] == "cancelled"
        return real(merger, recipe, on_layer, **options)

    monkeypatch.setattr(Merger, "merge", cancelled)
    error = made(post(http, "?wait=true", name="never"), 409)["error"]
    assert error["code"] == "job_cancelled"
    assert http.get("/v1/adapters/never").status_code == 404
