"""Load, unload and list as vLLM, SGLang, SageMaker and llama.cpp do: only what is allowed."""

import base64
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import torch
from api.conftest import UPLOAD_LIMIT, kind_names
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from s3_server import make_bucket, s3_server
from safetensors.torch import save_file
from servers import RunningServer, file_bytes, running_server
from tiny_adapters import make_adapter

from adapters_store import files
from adapters_store.signatures import key_id, sign
from server.settings import Settings, SettingsConflict
from server.storage import open_sources

ELEMENT = kind_names()["element"]
REVISION = "0123456789abcdef0123456789abcdef01234567"
VLLM, SGLANG = "/v1/load_lora_adapter", "/load_lora_adapter"
UNLOAD, SGLANG_UNLOAD = "/v1/unload_lora_adapter", "/unload_lora_adapter"
Load = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the operator allows, beside one that is not."""
    directory = tmp_path_factory.mktemp("sources") / "allowed"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def server(tiny_base: Path, running: list[RunningServer], allowed: Path) -> Iterator[RunningServer]:
    """A server that may load from `allowed`, where `one` and `two.safetensors` differ."""
    limits: dict[str, Any] = {"max_upload_bytes": UPLOAD_LIMIT}
    with running_server(tiny_base, adapter_sources=f"dir:{allowed}", **limits) as started:
        for seed, name in enumerate(("one", "two")):
            adapter = make_adapter(started.base, seed=seed)
            (allowed / f"{name}.safetensors").write_bytes(file_bytes(adapter))
        started.publish(ELEMENT, seed=7)
        running.append(started)
        yield started
        running.remove(started)


@pytest.fixture
def name() -> str:
    """A name that was never in use, so that its first version is 1."""
    return f"loaded-{uuid.uuid4().hex}"


@pytest.fixture
def load(http: httpx.Client, name: str) -> Iterator[Load]:
    """`load(path, name, route, **fields)`; what it brought in is deleted afterwards."""
    names: set[str] = set()

    def ask(path: str, name: str = name, route: str = VLLM, **fields: Any) -> httpx.Response:
        names.add(name)
        return http.post(route, json={"lora_name": name, "lora_path": path, **fields})

    yield ask
    for each in names:
        http.delete(f"/v1/adapters/{each}", params={"force": "true"})


def digest(http: httpx.Client, reference: str) -> str:
    return str(http.get(f"/v1/adapters/{reference}").json()["digest"])


def test_vllm_loads_serves_and_unloads(
    http: httpx.Client, load: Load, name: str, complete: Callable[..., Any]
) -> None:
    answer = load("dir:one.safetensors")
    assert (answer.status_code, answer.text) == (
        200,
        f"Success: LoRA adapter '{name}' added successfully.",
    )
    assert complete(model=name)["model"] == f"{name}@1"
    answer = http.post(UNLOAD, json={"lora_name": name, "lora_int_id": 1})
    assert (answer.status_code, answer.text) == (
        200,
        f"Success: LoRA adapter '{name}' removed successfully.",
    )
    body = {"model": name, "prompt": "x"}
    assert http.post("/v1/completions", json=body).status_code == 404
    assert http.post(UNLOAD, json={"lora_name": name}).status_code == 404


def test_sglang_answers_what_is_loaded(http: httpx.Client, load: Load, name: str) -> None:
    answer = load("dir:one.safetensors", route=SGLANG, pinned=True)
    expected = {ELEMENT: f"{ELEMENT}@1", name: f"{name}@1"}
    shown = answer.json()
    assert {n: a for n, a in shown["loaded_adapters"].items() if n in expected} == expected
    assert (shown["success"], shown["error_message"]) == (True, None)
    assert http.get(f"/v1/adapters/{name}").json()["pinned"] is True
    answer = http.post(SGLANG_UNLOAD, json={"lora_name": name})
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert name not in answer.json()["loaded_adapters"]


def test_sagemakers_words_are_understood(http: httpx.Client, load: Load, name: str) -> None:
    assert load("dir:one.safetensors").status_code == 200
    body = {"name": "by-sagemaker", "src": f"{name}@1"}
    assert http.post(VLLM, json=body).status_code == 200
    assert digest(http, "by-sagemaker") == digest(http, name)
    assert http.post(UNLOAD, json={"name": "by-sagemaker"}).status_code == 200


@pytest.mark.parametrize("form", ["{name}", "{name}@1", "{name}@{digest}", "{digest}"])
def test_what_is_in_the_registry_is_published_under_the_name(
    http: httpx.Client, load: Load, name: str, form: str
) -> None:
    path = form.format(name=ELEMENT, digest=digest(http, ELEMENT))
    assert load(path).status_code == 200
    assert digest(http, name) == digest(http, ELEMENT)
    assert http.post(UNLOAD, json={"lora_name": name}).status_code == 200
    assert digest(http, ELEMENT)


def test_same_content_again_changes_nothing(http: httpx.Client, load: Load, name: str) -> None:
    for fields in ({}, {}, {"load_inplace": True}):
        assert load("dir:one.safetensors", **fields).status_code == 200
    assert load(f"{name}@1").status_code == 200
    assert http.get(f"/v1/adapters/{name}").json()["version"] == 1


def test_other_content_becomes_the_next_version_only_in_place(
    http: httpx.Client, load: Load, name: str
) -> None:
    load("dir:one.safetensors")
    for route in (VLLM, SGLANG):
        refused = load("dir:two.safetensors", route=route)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_name")
        assert "already been loaded" in refused.json()["error"]["message"]
    assert http.get(f"/v1/adapters/{name}").json()["version"] == 1
    assert load("dir:two.safetensors", load_inplace=True).status_code == 200
    assert http.get(f"/v1/adapters/{name}").json()["version"] == 2


def test_earlier_version_cannot_become_the_latest(
    http: httpx.Client, load: Load, name: str
) -> None:
    load("dir:one.safetensors")
    load("dir:two.safetensors", load_inplace=True)
    for path in (f"{name}@1", "dir:one.safetensors"):
        refused = load(path, load_inplace=True)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_path")
        assert f"{name}@1" in refused.json()["error"]["message"]
    assert http.get(f"/v1/adapters/{name}").json()["version"] == 2


@pytest.mark.parametrize("route", [UNLOAD, SGLANG_UNLOAD])
def test_what_was_uploaded_is_not_unloaded(
    server: RunningServer, http: httpx.Client, name: str, route: str
) -> None:
    uploaded = server.publish(name, seed=8)
    refused = http.post(route, json={"lora_name": name})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_loaded")
    assert uploaded in refused.json()["error"]["message"]
    assert http.delete(f"/v1/adapters/{name}").json()["deleted"] == [uploaded]


def test_name_that_an_alias_points_at_is_not_unloaded(
    http: httpx.Client, load: Load, name: str
) -> None:
    load("dir:one.safetensors")
    http.patch(f"/v1/adapters/{name}", json={"aliases": {"prod": 1}})
    assert http.post(UNLOAD, json={"lora_name": name}).status_code == 409
    assert http.get(f"/v1/adapters/{name}").status_code == 200


def test_peft_directory_is_read_as_an_upload_is(
    server: RunningServer, load: Load, allowed: Path, complete: Callable[..., Any], name: str
) -> None:
    layer = "model.layers.0.mlp.down_proj"
    height, width = server.base.layers[layer].shape
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    tensors = {
        f"base_model.model.{layer}.lora_A.weight": torch.ones(2, width),
        f"base_model.model.{layer}.lora_B.weight": torch.ones(height, 2),
    }
    peft = allowed / "peft"
    peft.mkdir()
    save_file(tensors, peft / "adapter_model.safetensors")
    (peft / "adapter_config.json").write_text(json.dumps(config))
    assert load("dir:peft").status_code == 200
    assert complete(model=name)["model"] == f"{name}@1"
    (peft / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    refused = load("dir:peft", load_inplace=True)
    assert refused.status_code == 422
    assert "use_dora" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"no adapter at all", 422), (b"x" * (UPLOAD_LIMIT + 1), 413), (b"", 422)],
    ids=["rubbish", "too large", "empty"],
)
def test_file_passes_the_same_checks_as_an_upload(
    http: httpx.Client,
    server: RunningServer,
    load: Load,
    name: str,
    allowed: Path,
    content: bytes,
    status: int,
) -> None:
    (allowed / "bad.safetensors").write_bytes(content)
    assert load("dir:bad.safetensors").status_code == status
    assert http.get(f"/v1/adapters/{name}").status_code == 404
    assert list((server.settings.data_dir / "adapters" / "quarantine").iterdir()) == []


def test_archive_bomb_in_a_source_is_refused(load: Load, name: str, allowed: Path) -> None:
    with zipfile.ZipFile(allowed / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("adapter_model.safetensors", bytes(50_000_000))
        archive.writestr("adapter_config.json", "{}")
    assert load("dir:bomb.zip").status_code == 413


OUTSIDE = [
    "",
    ".",
    "/",
    "nobody",
    "nobody@1",
    f"{ELEMENT}@9",
    f"{ELEMENT}@prod",
    f"sha256:{'0' * 64}",
    "sha256:12",
    "../../x",
    "dir:../one.safetensors",
    "dir:missing.safetensors",
    "/etc/passwd",
    "/proc/self/environ",
    "{allowed}/../one.safetensors",
    "file:///etc/passwd",
    "file://{allowed}/one.safetensors",
    "http://127.0.0.1:9/one.safetensors",
    "https://127.0.0.1:9/one.safetensors",
    "ftp://127.0.0.1:9/one.safetensors",
    "memory://one.safetensors",
    "simplecache::file://{allowed}/one.safetensors",
    "s3://bucket/one.safetensors",
    "org/name",
    "hub:org/name",
    f"hub:org/name@{REVISION}",
    "dir:one.safetensors\0",
    "\0",
    "x" * 100_000,
]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: repr(path[:40]))
@pytest.mark.parametrize("route", [VLLM, SGLANG])
def test_path_outside_what_is_allowed_is_not_found(
    http: httpx.Client, load: Load, name: str, allowed: Path, route: str, path: str
) -> None:
    (allowed.parent / "one.safetensors").write_bytes((allowed / "one.safetensors").read_bytes())
    answer = load(path.format(allowed=allowed), route=route)
    assert answer.status_code == 404, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("lora_path", "source_not_found")
    assert len(error["message"]) < 1000
    assert http.get(f"/v1/adapters/{name}").status_code == 404


BODIES: dict[str, tuple[Any, int, str | None]] = {
    "no name": ({"lora_path": "x"}, 400, "lora_name"),
    "no path": ({"lora_name": "x"}, 400, "lora_path"),
    "nothing": ({}, 400, "lora_name"),
    "a list": ([], 400, None),
    "name number": ({"lora_name": 5, "lora_path": ELEMENT}, 400, "lora_name"),
    "path null": ({"lora_name": "x", "lora_path": None}, 400, "lora_path"),
    "name of no form": ({"lora_name": "No Name", "lora_path": ELEMENT}, 400, "name"),
    "name with a version": ({"lora_name": "x@1", "lora_path": ELEMENT}, 400, "name"),
    "name of the base": ({"lora_name": "tiny", "lora_path": ELEMENT}, 400, "lora_name"),
    "name of a route": ({"lora_name": "x/file", "lora_path": ELEMENT}, 400, "lora_name"),
    "name twice": ({"lora_name": "x", "name": "y", "lora_path": ELEMENT}, 400, "name"),
    "path twice": ({"lora_name": "x", "src": "y", "lora_path": ELEMENT}, 400, "src"),
    "load_inplace text": (
        {"lora_name": "x", "lora_path": ELEMENT, "load_inplace": "yes"},
        400,
        "load_inplace",
    ),
    "3d weight": (
        {"lora_name": "x", "lora_path": ELEMENT, "is_3d_lora_weight": True},
        400,
        "is_3d_lora_weight",
    ),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("route", [VLLM, SGLANG])
def test_bad_body_is_refused_by_field(http: httpx.Client, route: str, case: str) -> None:
    body, status, param = BODIES[case]
    answer = http.post(route, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize("route", [UNLOAD, SGLANG_UNLOAD])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"lora_int_id": 1}, 400),
        ({"lora_name": "nobody"}, 404),
        ({"lora_name": "tiny"}, 404),
        ({"lora_name": f"{ELEMENT}@1"}, 400),
    ],
)
def test_unloading_what_is_no_name_is_refused(
    http: httpx.Client, route: str, body: dict[str, Any], status: int
) -> None:
    assert http.post(route, json=body).status_code == status
    assert http.get(f"/v1/adapters/{ELEMENT}").status_code == 200


@pytest.mark.parametrize("route", [VLLM, UNLOAD, SGLANG, SGLANG_UNLOAD])
def test_body_must_say_that_it_is_json(http: httpx.Client, route: str) -> None:
    content = f'{{"lora_name": "x", "lora_path": "{ELEMENT}"}}'
    answer = http.post(route, content=content, headers={"content-type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize("route", [VLLM, UNLOAD, SGLANG, SGLANG_UNLOAD, "/lora-adapters"])
def test_key_is_wanted_here_too(keyed_server: RunningServer, route: str) -> None:
    with keyed_server.http() as http:
        send = http.get if route == "/lora-adapters" else http.post
        assert send(route).status_code == 401


def test_llama_cpps_list_shows_positions_and_no_paths(http: httpx.Client, load: Load) -> None:
    load("dir:one.safetensors", name="z")
    load("dir:two.safetensors", name="a")
    listed = http.get("/lora-adapters").json()
    assert listed == [
        {"id": position, "path": path, "scale": 0.0}
        for position, path in enumerate([f"{ELEMENT}@1", "z@1", "a@1"])
    ]


def test_without_a_setting_only_the_registry_is_read(
    keyed_server: RunningServer, allowed: Path
) -> None:
    with keyed_server.http(headers={"authorization": "Bearer sesame-0123"}) as http:
        for path in ("dir:one.safetensors", f"{allowed}/one.safetensors"):
            body = {"lora_name": "x", "lora_path": path}
            assert http.post(VLLM, json=body).status_code == 404


def test_signatures_count_as_for_uploads(tiny_base: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    trusted = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    source = tmp_path / "source"
    source.mkdir()
    options: dict[str, Any] = {"trusted_keys": trusted, "adapter_sources": f"dir:{source}"}
    with running_server(tiny_base, **options) as server, server.http() as http:
        adapter = make_adapter(server.base)
        files.write(adapter, source / "a.safetensors")
        body = {"lora_name": "a", "lora_path": "dir:a.safetensors"}
        assert http.post(VLLM, json=body).status_code == 403
        (source / "a.safetensors.sig").write_text(sign(adapter.digest, key))
        assert http.post(VLLM, json=body).status_code == 200
        assert http.post(VLLM, json={"lora_name": "b", "lora_path": "a@1"}).status_code == 200
        signer = key_id(key.public_key())
        for name in ("a", "b"):
            shown = http.get(f"/v1/adapters/{name}").json()
            assert shown["metadata"]["signed_by"] == signer


def test_bucket_is_a_source(tiny_base: Path) -> None:
    with s3_server() as endpoint:
        bucket = make_bucket(endpoint)
        sources = f"s3://{bucket}/team, s3://{bucket}/other/"
        with running_server(tiny_base, adapter_sources=sources) as server, server.http() as http:
            content = file_bytes(make_adapter(server.base))
            client = boto3.client("s3", endpoint_url=endpoint)
            client.put_object(Bucket=bucket, Key="other/a.safetensors", Body=content)
            body = {"lora_name": "a", "lora_path": f"s3://{bucket}/other/a.safetensors"}
            assert http.post(VLLM, json=body).status_code == 200
            client.delete_object(Bucket=bucket, Key="other/a.safetensors")
            assert http.post(VLLM, json=body).status_code == 404
            client.delete_bucket(Bucket=bucket)
            answer = http.post(VLLM, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "source_unavailable")
    assert bucket not in answer.text


@pytest.mark.parametrize("entry", ["/tmp", "dir:relative", "s3://", "hub:org/name@main", "ftp://x"])
def test_setting_that_allows_nothing_definite_stops_the_start(entry: str) -> None:
    with pytest.raises(SettingsConflict, match="INTARSIA_ADAPTER_SOURCES"):
        open_sources(Settings(adapter_sources=entry))
