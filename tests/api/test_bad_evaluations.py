"""What cannot be evaluated is refused when it comes, and the answer names row and field."""

import json
from typing import Any

import httpx
import pytest
from evaluation_runs import jsonl, rows_of

GOOD = {"prompt": "a", "target": "b"}
LONG = "x" * 200  # more tokens than the context has


def inline(*rows: Any) -> dict[str, Any]:
    return {"dataset": {"rows": list(rows)}}


# name: (fields, status, param, words of the message)
BAD: dict[str, tuple[dict[str, Any], int, str | None, list[str]]] = {
    "no subjects": ({"subjects": []}, 400, "subjects", []),
    "unknown adapter": ({"subjects": ["base", "nobody"]}, 404, "subjects.1", ["nobody"]),
    "unknown member": (
        {"subjects": [{"adapters": [{"id": "nobody"}]}]},
        404,
        "subjects.0.adapters.0.id",
        ["nobody"],
    ),
    "unknown merge": (
        {"subjects": [{"adapters": [{"id": "kinds/element"}], "merge": {"method": "blend"}}]},
        400,
        "subjects.0.merge.method",
        ["blend"],
    ),
    "unknown field of a subject": (
        {"subjects": [{"model": "tiny", "weight": 2}]},
        400,
        "subjects.0",
        [],
    ),
    "a subject twice": ({"subjects": ["base", "tiny"]}, 400, "subjects", ["'base'", "2 times"]),
    "a name that moves the cursor": (
        {"subjects": [{"name": "a\x1b[2J", "adapters": [{"id": "kinds/element"}]}]},
        400,
        "subjects.0",
        [],
    ),
    "a blank name": ({"dataset": {"rows": [GOOD], "name": "  "}}, 400, "dataset.name", ["blank"]),
    "an adapter called the base": (
        {"subjects": [{"name": "base", "adapters": [{"id": "kinds/element"}]}]},
        400,
        "subjects.0.name",
        ["base"],
    ),
    "no alias": (
        {"promote": {"alias": "x@", "if": {"metric": "rouge_l", "min": 1.0}}},
        400,
        "promote.alias",
        ["name@alias"],
    ),
    "certainty of a gate": (
        {
            "subjects": ["kinds/element"],
            "promote": {
                "alias": "kinds/element@prod",
                "if": {"metric": "rouge_l", "min": 1.0, "confidence": 1.0},
            },
        },
        400,
        "promote.if.confidence",
        [],
    ),
    "unknown metric": ({"metrics": ["rouge_l", "bleu"]}, 400, "metrics", ["bleu", "rouge_l"]),
    "no metric": ({"metrics": []}, 400, "metrics", []),
    "no data set": ({"dataset": None}, 400, "dataset", []),
    "two forms of data set": ({"datasets": [{"rows": [GOOD]}]}, 400, "dataset", []),
    "two sources of rows": ({"dataset": {"rows": [GOOD], "id": "x"}}, 400, "dataset", []),
    "empty set": (inline(), 400, "dataset", ["no rows"]),
    "rows that are no list": ({"dataset": {"rows": "abc"}}, 400, "dataset.rows", []),
    "missing target": (
        inline(GOOD, {"prompt": "x"}),
        400,
        "dataset.rows.1.target",
        ["row 2", "target", "missing"],
    ),
    "missing prompt in the second set": (
        {"dataset": None, "datasets": [{"rows": [GOOD]}, {"rows": [{"target": "x"}]}]},
        400,
        "datasets.1.rows.0.prompt",
        ["row 1", "prompt"],
    ),
    "row of no object": (inline(GOOD, 3), 400, "dataset.rows.1", ["row 2"]),
    "half a character": (
        inline({"prompt": "\ud800", "target": "x"}),
        400,
        "dataset.rows.0.prompt",
        ["row 1"],
    ),
    "half a character in a name": (
        {"dataset": {"rows": [GOOD], "name": "\ud800"}},
        400,
        "name",
        ["surrogate"],
    ),
    "row beyond a megabyte": (
        inline(GOOD, {"prompt": "x" * (2 << 20), "target": "y"}),
        413,
        None,
        ["1000000 bytes"],  # this server's limit on bodies
    ),
    "choices needed": (
        {**inline(*rows_of(1), GOOD), "metrics": ["accuracy"]},
        400,
        "dataset.rows.1.choices",
        ["row 2", "choices", "accuracy"],
    ),
    "prompt too long": (
        inline(GOOD, {**GOOD, "prompt": LONG}),
        400,
        "dataset.rows.1.prompt",
        ["row 2", "tokens", "128"],
    ),
    "answer too long": (
        {**inline(GOOD), "generation": {"max_tokens": 128}},
        400,
        "dataset.rows.0.prompt",
        ["row 1", "with 128 after it"],
    ),
    "target too long": (
        {**inline(GOOD, {**GOOD, "target": LONG}), "metrics": ["loss"]},
        400,
        "dataset.rows.1.prompt",
        ["row 2"],
    ),
    "unknown data set": ({"dataset": {"id": "data-0"}}, 404, "dataset", ["data-0"]),
    "unknown task": ({"dataset": {"task": "nothing"}}, 404, "task", ["intarsia tasks build"]),
    "task that leads elsewhere": ({"dataset": {"task": "../adapters"}}, 400, "dataset.task", []),
    "unknown split": ({"dataset": {"task": "x", "split": "dev"}}, 400, "dataset.split", []),
    "a data set twice": (
        {"dataset": None, "datasets": [{"rows": [GOOD], "name": "n"}] * 2},
        400,
        "datasets",
        ["'n'"],
    ),
    "temperature below 0": (
        {"generation": {"temperature": -1.0}},
        400,
        "generation.temperature",
        [],
    ),
    "no tokens": ({"generation": {"max_tokens": 0}}, 400, "generation.max_tokens", []),
    "unknown setting": ({"generation": {"best_of": 3}}, 400, "generation.best_of", []),
    "empty stop": ({"generation": {"stop": [""]}}, 400, "generation.stop", []),
    "unknown mode": ({"prompt_mode": "instruct"}, 400, "prompt_mode", []),
    "limit of none": ({"limit": 0}, 400, "limit", []),
    "certainty": ({"confidence": 1.0}, 400, "confidence", []),
    "priority above live requests": ({"priority": -1}, 400, "priority", []),
    "unknown reference": ({"reference": "nobody"}, 400, "reference", ["nobody"]),
    "unknown field": ({"metric": "f1"}, 400, "metric", []),
}


@pytest.mark.parametrize(("change", "status", "param", "told"), BAD.values(), ids=BAD)
def test_a_bad_evaluation_is_refused_by_field(
    http: httpx.Client,
    change: dict[str, Any],
    status: int,
    param: str | None,
    told: list[str],
) -> None:
    datasets, jobs = http.get("/v1/datasets").json(), http.get("/v1/jobs").json()
    body = {"subjects": ["base"], "metrics": ["rouge_l"], **inline(GOOD), **change}
    # By `json`, since httpx itself cannot send half a character.
    content, headers = json.dumps(body), {"content-type": "application/json"}
    answer = http.post("/v1/evaluations", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    if param is not None:
        assert error["param"] == param, error
    assert [word for word in told if word not in error["message"]] == []
    assert http.get("/v1/datasets").json() == datasets, "nothing is kept of what was refused"
    assert http.get("/v1/jobs").json() == jobs


def test_a_row_of_a_kept_data_set_is_named_too(http: httpx.Client) -> None:
    rows = jsonl([GOOD, {**GOOD, "prompt": LONG}])
    kept = http.post("/v1/datasets", files={"file": ("rows.jsonl", rows)}).json()
    body = {"subjects": ["base"], "metrics": ["rouge_l"], "dataset": {"id": kept["id"]}}
    error = http.post("/v1/evaluations", json=body).json()["error"]
    assert error["param"] == "dataset.id"
    assert "row 2, field prompt" in error["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["job-0", "%00", "..", "job-0/rows", "job-0/events"])
def test_an_unknown_evaluation_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, f"/v1/evaluations/{path}")
    assert answer.status_code in (404, 405)


def test_a_merge_is_no_evaluation(http: httpx.Client) -> None:
    body = {"name": "merged/here", "adapters": [{"id": "kinds/element"}]}
    job = http.post("/v1/merges", json=body).json()["id"]
    answer = http.get(f"/v1/evaluations/{job}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "evaluation_not_found")
    while http.get(f"/v1/jobs/{job}").json()["status"] != "succeeded":
        pass


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", '{"subjects": ["é"]}'.encode("latin-1")])
def test_a_body_in_the_wrong_encoding_is_refused(http: httpx.Client, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/evaluations", content=content, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("params", [{"subject": "nobody"}, {"task": "none"}, {"after": "x"}])
def test_rows_of_nothing_known_are_refused(http: httpx.Client, params: dict[str, str]) -> None:
    body = {"subjects": ["base"], "metrics": ["rouge_l"], **inline(GOOD)}
    evaluation = http.post("/v1/evaluations", json=body).json()["id"]
    answer = http.get(f"/v1/evaluations/{evaluation}/rows", params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(params)))
    http.delete(f"/v1/evaluations/{evaluation}")
