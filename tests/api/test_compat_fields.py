"""Other servers' fields: each asks for what our own fields would, and says so when it cannot."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api.conftest import kind_names
from servers import BASE_NAME, RunningServer

KINDS = kind_names()
ELEMENT, BLOCK = KINDS["element"], KINDS["block 16x16"]
LINEAR = {"method": "linear"}
NAN = float("nan")
Ask = Callable[..., Any]


def own(*members: tuple[str, float]) -> dict[str, Any]:
    return {"adapters": [{"id": name, "weight": w} for name, w in members], "merge": LINEAR}


def positions(http: httpx.Client) -> dict[str, int]:
    """The position of each adapter in llama.cpp's list, by id."""
    return {entry["path"]: entry["id"] for entry in http.get("/lora-adapters").json()}


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adapter_id": ({"adapter_id": ELEMENT}, {"model": ELEMENT}),
    "adapter_id of a version": ({"adapter_id": f"{ELEMENT}@1"}, {"model": ELEMENT}),
    "adapter_id from the registry": (
        {"adapter_id": ELEMENT, "adapter_source": "registry"},
        {"model": ELEMENT},
    ),
    "adapter_id that is local": (
        {"adapter_id": ELEMENT, "adapter_source": "local"},
        {"model": ELEMENT},
    ),
    "adapter_id without a model": ({"adapter_id": ELEMENT, "model": None}, {"model": ELEMENT}),
    "empty adapter_id": ({"adapter_id": ""}, {}),
    "adapter_id null": ({"adapter_id": None, "adapter_source": None}, {}),
    "the base as adapter_id": ({"adapter_id": BASE_NAME}, {}),
    "merged of one": ({"merged_adapters": {"ids": [ELEMENT]}}, own((ELEMENT, 1.0))),
    "merged by default": (
        {"merged_adapters": {"ids": [ELEMENT, BLOCK]}},
        own((ELEMENT, 1.0), (BLOCK, 1.0)),
    ),
    "merged with weights": (
        {"merged_adapters": {"ids": [ELEMENT, BLOCK], "weights": [0.5, -2]}},
        own((ELEMENT, 0.5), (BLOCK, -2.0)),
    ),
    "merged linearly, as LoRAX's client writes it": (
        {
            "merged_adapters": {
                "ids": [ELEMENT, BLOCK],
                "weights": [0.5, 2.0],
                "merge_strategy": "linear",
                "density": 0.0,
                "majority_sign_method": "total",
            },
            "adapter_source": "local",
        },
        own((ELEMENT, 0.5), (BLOCK, 2.0)),
    ),
    "base:adapter": ({"model": f"{BASE_NAME}:{ELEMENT}"}, {"model": ELEMENT}),
    "base:adapter of a version": ({"model": f"{BASE_NAME}:{ELEMENT}@1"}, {"model": ELEMENT}),
    "no lora": ({"lora": []}, {}),
}


@pytest.mark.parametrize("case", SAME)
def test_field_of_another_server_is_the_same_as_ours(complete: Ask, case: str) -> None:
    theirs, ours = SAME[case]
    base = complete()["choices"][0]["text"]
    expected = complete(**ours)
    assert complete(**theirs)["choices"] == expected["choices"]
    assert (expected["choices"][0]["text"] == base) is (ours == {})


def test_lora_names_adapters_by_their_position(http: httpx.Client, complete: Ask) -> None:
    at = positions(http)
    first, second = f"{ELEMENT}@1", f"{BLOCK}@1"
    lora = [{"id": at[first], "scale": 0.5}, {"id": at[second], "scale": 2}]
    expected = complete(**own((ELEMENT, 0.5), (BLOCK, 2.0)))
    answer = complete(lora=lora)
    assert (answer["choices"], answer["model"]) == (expected["choices"], expected["model"])
    off = complete(lora=[{"id": at[first], "scale": 0.0}])
    assert off["choices"] == complete()["choices"]


def test_position_stays_when_another_adapter_or_version_is_published(
    http: httpx.Client, server: RunningServer
) -> None:
    before = positions(http)
    server.publish("a-first-by-name", seed=80)
    server.publish("a-first-by-name", seed=81)
    after = positions(http)
    http.delete("/v1/adapters/a-first-by-name")
    assert after == {**before, "a-first-by-name@2": len(before)}


def test_chat_takes_them_too(http: httpx.Client) -> None:
    messages = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    for fields in (
        {"adapter_id": ELEMENT},
        {"merged_adapters": {"ids": [ELEMENT]}},
        {"model": f"{BASE_NAME}:{ELEMENT}"},
        {"lora": [{"id": positions(http)[f"{ELEMENT}@1"], "scale": 1.0}]},
    ):
        answer = http.post("/v1/chat/completions", json={**messages, **fields})
        assert answer.headers["x-intarsia-composition"] == f"{ELEMENT}@1", answer.text
        assert "x-intarsia-ignored-fields" not in answer.headers


MERGED = {"ids": [ELEMENT, BLOCK], "density": 0.5}
BAD: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "unknown adapter_id": ({"adapter_id": "nobody"}, 404, "adapter_id", "`nobody`"),
    "adapter_id number": ({"adapter_id": 5}, 400, "adapter_id", "not 5"),
    "adapter_id path": ({"adapter_id": "/etc/passwd"}, 404, "adapter_id", "/etc/passwd"),
    "adapter_id and adapters": (
        {"adapter_id": ELEMENT, "adapters": [{"id": ELEMENT}]},
        400,
        "adapter_id",
        "'adapters'",
    ),
    "adapter_id and merged_adapters": (
        {"adapter_id": ELEMENT, "merged_adapters": MERGED},
        400,
        "merged_adapters",
        "'adapter_id'",
    ),
    "empty adapter_id and lora": ({"adapter_id": "", "lora": []}, 400, "lora", "'adapter_id'"),
    "adapter_id and model": ({"adapter_id": ELEMENT, "model": BLOCK}, 400, "model", "'adapter_id'"),
    "adapter_id and base:adapter": (
        {"adapter_id": ELEMENT, "model": f"{BASE_NAME}:{ELEMENT}"},
        400,
        "model",
        "'adapter_id'",
    ),
    "adapter_id and merge": ({"adapter_id": ELEMENT, "merge": LINEAR}, 400, "merge", "'adapters'"),
    **{
        f"adapter_source {source}": (
            {"adapter_id": ELEMENT, "adapter_source": source},
            400,
            "adapter_source",
            f"'{source}'",
        )
        for source in ("hub", "s3", "pbase", "LOCAL", "")
    },
    "adapter_source alone": ({"adapter_source": "local"}, 400, "adapter_source", "'adapter_id'"),
    "merged text": ({"merged_adapters": "x"}, 400, "merged_adapters", "'x'"),
    "merged without ids": ({"merged_adapters": {}}, 400, "merged_adapters.ids", "required"),
    "merged of none": ({"merged_adapters": {"ids": []}}, 400, "merged_adapters.ids", "[]"),
    "merged of too many": (
        {"merged_adapters": {"ids": [ELEMENT] * 65}},
        400,
        "merged_adapters.ids",
        "64",
    ),
    "merged with an unknown": (
        {"merged_adapters": {"ids": [ELEMENT, "nobody"]}},
        404,
        "merged_adapters.ids.1",
        "`nobody`",
    ),
    "merged with a weight too few": (
        {"merged_adapters": {"ids": [ELEMENT, BLOCK], "weights": [1]}},
        400,
        "merged_adapters.weights",
        "1 for 2",
    ),
    "merged weight NaN": (
        {"merged_adapters": {"ids": [ELEMENT], "weights": [NAN]}},
        400,
        "merged_adapters.weights.0",
        "nan",
    ),
    "merged density over 1": (
        {"merged_adapters": {"ids": [ELEMENT], "density": 1.1}},
        400,
        "merged_adapters.density",
        "1.1",
    ),
    "merged by an unknown strategy": (
        {"merged_adapters": {"ids": [ELEMENT], "merge_strategy": "slerp"}},
        400,
        "merged_adapters.merge_strategy",
        "'slerp'",
    ),
    "merged by an unknown sign": (
        {"merged_adapters": {**MERGED, "majority_sign_method": "sum"}},
        400,
        "merged_adapters.majority_sign_method",
        "'sum'",
    ),
    "merged misspelt": (
        {"merged_adapters": {"ids": [ELEMENT], "weight": [1]}},
        400,
        "merged_adapters.weight",
        "weight",
    ),
    "ties without density": (
        {"merged_adapters": {"ids": [ELEMENT], "merge_strategy": "ties"}},
        400,
        "merged_adapters.density",
        "ties",
    ),
    "merged and merge": ({"merged_adapters": MERGED, "merge": LINEAR}, 400, "merge", "'adapters'"),
    "lora text": ({"lora": "x"}, 400, "lora", "'x'"),
    "lora without scale": ({"lora": [{"id": 0}]}, 400, "lora.0.scale", "required"),
    "lora negative": ({"lora": [{"id": -1, "scale": 1}]}, 400, "lora.0.id", "-1"),
    "lora by name": ({"lora": [{"id": ELEMENT, "scale": 1}]}, 400, "lora.0.id", ELEMENT),
    "lora boolean": ({"lora": [{"id": True, "scale": 1}]}, 400, "lora.0.id", "True"),
    "lora beyond the list": ({"lora": [{"id": 999, "scale": 1}]}, 404, "lora.0.id", "999"),
    "lora huge": ({"lora": [{"id": 2**70, "scale": 1}]}, 404, "lora.0.id", str(2**70)),
    "lora twice": ({"lora": [{"id": 0, "scale": 1}] * 2}, 400, "lora.1.id", "twice"),
    "lora scale NaN": ({"lora": [{"id": 0, "scale": NAN}]}, 400, "lora.0.scale", "nan"),
    "lora and model": ({"lora": [], "model": ELEMENT}, 400, "model", "'lora'"),
    "lora and adapters": (
        {"lora": [], "adapters": [{"id": ELEMENT}]},
        400,
        "lora",
        "'adapters'",
    ),
    "base: and nothing": ({"model": f"{BASE_NAME}:"}, 404, "model", "``"),
    "base:base": ({"model": f"{BASE_NAME}:{BASE_NAME}"}, 404, "model", "`tiny`"),
    "base:unknown": ({"model": f"{BASE_NAME}:nobody"}, 404, "model", "`nobody`"),
    "another base:adapter": ({"model": f"other:{ELEMENT}"}, 404, "model", f"`other:{ELEMENT}`"),
    "SGLang's lora_path": ({"lora_path": ELEMENT}, 400, "lora_path", "'adapters'"),
}


@pytest.mark.parametrize("case", BAD)
def test_contradiction_or_bad_value_is_refused_by_field(http: httpx.Client, case: str) -> None:
    fields, status, param, says = BAD[case]
    body = {"model": BASE_NAME, "prompt": "x", "max_tokens": 2, **fields}
    headers = {"content-type": "application/json"}
    response = http.post("/v1/completions", content=json.dumps(body), headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    assert says in error["message"]
