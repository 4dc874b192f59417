"""Bad uploads: each refused with the field and the reason, and nothing of it listed."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import httpx
import pytest
import torch
from api.conftest import UPLOAD_LIMIT
from servers import BASE_NAME, RunningServer, file_bytes
from tiny_adapters import QKV, make_adapter

from adapters_store.adapter import BaseIdentity, BaseLayer, ElementDelta, SparseAdapter


def _element(base: BaseIdentity, **changes: Any) -> bytes:
    """The file of an element adapter of one layer, with some fields changed."""
    adapter = make_adapter(base, "element", layers=[QKV])
    [delta] = adapter.deltas
    assert isinstance(delta, ElementDelta)
    made = {name: change(getattr(delta, name)) for name, change in changes.items()}
    return file_bytes(SparseAdapter(adapter.base_name, adapter.base, (replace(delta, **made),), {}))


def _nan_first(values: torch.Tensor) -> torch.Tensor:
    return torch.cat((torch.tensor([torch.nan]), values[1:]))


def _other_base(base: BaseIdentity) -> bytes:
    layers = {
        name: BaseLayer(layer.shape, f"sha256:{'0' * 64}") for name, layer in base.layers.items()
    }
    return file_bytes(make_adapter(BaseIdentity(base.name, layers)))


def _unknown_layer(base: BaseIdentity) -> bytes:
    layers = {**base.layers, "model.layers.9.mlp.down_proj": base.layers[QKV]}
    return file_bytes(
        make_adapter(BaseIdentity(base.name, layers), layers=["model.layers.9.mlp.down_proj"])
    )


def _zip(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return content.getvalue()


def _tar(tensors: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo("adapter_model.safetensors")
        member.size = len(tensors)
        archive.addfile(member, io.BytesIO(tensors))
    return content.getvalue()


def _huge_header(_: BaseIdentity) -> bytes:
    return struct.pack("<Q", 2**62) + b"{" + b" " * 100


Make = Callable[[BaseIdentity], bytes]
FILES: dict[str, tuple[Make, int, str]] = {
    "empty": (lambda _: b"", 422, "file"),
    "noise": (lambda _: b"\x00" * 100, 422, "accepted is"),
    "truncated": (lambda base: _element(base)[:-1], 422, "safetensors"),
    "truncated header": (lambda base: _element(base)[:50], 422, "accepted is"),
    "huge header": (_huge_header, 422, "accepted is"),
    "bytes after the end": (lambda base: _element(base) + b"\0", 422, "safetensors"),
    "NaN": (lambda base: _element(base, values=_nan_first), 422, "values"),
    "infinite": (lambda base: _element(base, values=lambda v: v * torch.inf), 422, "values"),
    "unsorted indices": (lambda base: _element(base, indices=lambda i: i.flip(0)), 422, "indices"),
    "repeated index": (
        lambda base: _element(base, indices=lambda i: i[:1].expand_as(i).clone()),
        422,
        "indices",
    ),
    "negative index": (lambda base: _element(base, indices=lambda i: i - 100_000), 422, "indices"),
    "index past the end": (
        lambda base: _element(base, indices=lambda i: i + 100_000),
        422,
        "indices",
    ),
    "wrong shape": (lambda base: _element(base, shape=lambda s: (s[0] + 16, s[1])), 422, "shape"),
    "NaN scale": (lambda base: _element(base, scale=lambda _: float("nan")), 422, "scale"),
    "for another base": (_other_base, 422, "another base"),
    "unknown layer": (_unknown_layer, 422, "model.layers.9"),
    "pickle": (lambda _: pickle.dumps({"weights": 1}), 422, "accepted is"),
    "zipped pickle": (
        lambda _: _zip(adapter_config__json=b"{}", adapter_model__bin=b"x"),
        422,
        "pickle",
    ),
    "zip of nothing": (lambda _: _zip(), 422, "file"),
    "zip bomb": (
        lambda _: _zip(
            adapter_config__json=b"{}", adapter_model__safetensors=bytes(UPLOAD_LIMIT * 50)
        ),
        413,
        str(UPLOAD_LIMIT),
    ),
    "tar bomb": (lambda _: _tar(bytes(UPLOAD_LIMIT * 50)), 413, str(UPLOAD_LIMIT)),
    "gzip of nothing": (lambda _: gzip.compress(b""), 422, "archive"),
    "truncated zip": (lambda _: _zip(adapter_config__json=b"{}" * 50)[:40], 422, "archive"),
    "one byte over the limit": (lambda _: bytes(UPLOAD_LIMIT + 1), 413, str(UPLOAD_LIMIT + 1)),
    "far over the limit": (lambda _: bytes(UPLOAD_LIMIT + 3_000_000), 413, "bytes"),
}


def _listed(http: httpx.Client) -> list[str]:
    return [adapter["id"] for adapter in http.get("/v1/adapters").json()["data"]]


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_with_its_reason(
    http: httpx.Client, server: RunningServer, case: str
) -> None:
    make, status, says = FILES[case]
    before = _listed(http)
    response = http.post("/v1/adapters", data={"name": "bad"}, files={"file": make(server.base)})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert says in error["message"]
    assert error["param"] == ("file" if case != "far over the limit" else None)
    assert _listed(http) == before


def test_a_file_of_exactly_the_limit_is_taken(http: httpx.Client, server: RunningServer) -> None:
    adapter = make_adapter(server.base, "element", layers=[QKV], keep_ratio=0.6)
    short = UPLOAD_LIMIT - len(file_bytes(replace(adapter, notes={"pad": ""})))
    # The header is padded to 8 bytes, so the file's size moves in steps of 8.
    content = file_bytes(replace(adapter, notes={"pad": "x" * (short - 8)}))
    assert UPLOAD_LIMIT - 16 <= len(content) <= UPLOAD_LIMIT
    exact = replace(adapter, notes={"pad": "x" * (short - 8 + UPLOAD_LIMIT - len(content))})
    assert len(file_bytes(exact)) == UPLOAD_LIMIT
    assert server.upload(exact, "exact")["bytes"] == UPLOAD_LIMIT
    http.delete("/v1/adapters/exact")


class Form(NamedTuple):
    """Multipart parts (name, value); a value of bytes is a file."""

    parts: list[tuple[str, Any]]
    status: int
    param: str | None
    says: str


GOOD = b"content that is never reached"
FILE = ("file", ("a.safetensors", GOOD))
DEEP = "[" * 100_000
FORMS = {
    "no file": Form([("name", (None, "x"))], 400, "file", "file"),
    "no name": Form([FILE], 400, "name", "name"),
    "nothing": Form([("x", (None, ""))], 400, "x", "'x'"),
    "two files": Form([FILE, FILE, ("name", (None, "x"))], 400, "file", "twice"),
    "file as text": Form([("file", (None, "x")), ("name", (None, "x"))], 400, "file", "a file"),
    "name as file": Form([("name", ("a", b"x"))], 400, "name", "name"),
    "two names": Form([FILE, ("name", (None, "x")), ("name", (None, "y"))], 400, "name", "twice"),
    "unknown field": Form([FILE, ("nmae", (None, "x"))], 400, "nmae", "'nmae'"),
    "name that is no text": Form([FILE, ("name", (None, b"\xff"))], 400, "name", "UTF-8"),
    "metadata no JSON": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, "{"))], 400, "metadata", "JSON"
    ),
    "metadata list": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, "[1]"))], 400, "metadata", "[1]"
    ),
    "metadata deep": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, DEEP))], 400, "metadata", "recursion"
    ),
    "metadata NaN": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, '{"a": NaN}'))], 400, "metadata", "JSON"
    ),
    "metadata lone surrogate": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, '{"a": "\\ud800"}'))],
        400,
        "metadata",
        "surrogate",
    ),
    "metadata huge": Form(
        [FILE, ("name", (None, "x")), ("metadata", (None, json.dumps({"a": "x" * 1_050_000})))],
        400,
        "metadata",
        "more than 1048576 bytes",
    ),
    **{
        f"name {name!r}": Form([FILE, ("name", (None, name))], 400, "name", repr(name)[:20])
        for name in ("", "Upper", "a b", "../x", "a/b/c", "x@1", "é", "nul\0", "x" * 65, "ns/file")
    },
    "the base's name": Form([FILE, ("name", (None, BASE_NAME))], 409, "name", f"'{BASE_NAME}'"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_bad_form_is_refused_by_field(http: httpx.Client, case: str) -> None:
    form = FORMS[case]
    response = http.post("/v1/adapters", files=form.parts)
    assert response.status_code == form.status, response.text
    error = response.json()["error"]
    assert error["param"] == form.param, error
    assert form.says in error["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        ("application/json", 415),
        ("multipart/form-datax", 415),
        ("multipart/form-data", 400),
    ],
)
def test_an_upload_that_is_no_form_is_refused(
    http: httpx.Client, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = http.post("/v1/adapters", content=b"{}", headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]
