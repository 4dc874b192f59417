"""`intarsia-adapter/1`: exact round trips, and nothing but AdapterRefused for anything else."""
# ruff: noqa: E501 - one case, one row

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from store_factories import (
    BASE,
    LIMITS,
    QKV,
    adapter_of,
    adapters,
    block,
    random,
    random_adapter,
)

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.validation import check

shared_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _header(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _rewrite(path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _written(path: Path, adapter: SparseAdapter) -> Path:
    files.write(adapter, path)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(AdapterRefused) as caught:
        files.read(path)
    return str(caught.value)


@shared_path
@given(adapters())
def test_round_trip_is_exact_for_every_kind_and_dtype(
    tmp_path: Path, adapter: SparseAdapter
) -> None:
    path = _written(tmp_path / "a", adapter)
    again = files.read(path)
    assert again.digest == adapter.digest
    assert (again.base_name, again.base, again.notes) == (
        (adapter.base_name, adapter.base, adapter.notes)
    )
    for before, after in zip(adapter.deltas, again.deltas, strict=True):
        assert type(after) is type(before)
        assert after.header == before.header
        for name, tensor in before.tensors.items():
            assert after.tensors[name].dtype == tensor.dtype
            assert torch.equal(after.tensors[name], tensor)
    check(again, BASE, LIMITS)
    assert path.stat().st_size == files.num_bytes(adapter)
    first = path.read_bytes()
    assert _written(path, again).read_bytes() == first


def test_safetensors_itself_reads_what_is_written(tmp_path: Path) -> None:
    delta = block(QKV, torch.bfloat16, random(1))
    tensors = load_file(_written(tmp_path / "a", adapter_of(delta)))
    assert torch.equal(tensors[f"{QKV}.values"], delta.values)


def test_tensors_read_own_exactly_their_memory(tmp_path: Path) -> None:
    adapter = files.read(_written(tmp_path / "a", random_adapter(kind="block")))
    for tensor in adapter.deltas[0].tensors.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_same_adapter_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Hash seeds differ between processes; safetensors' own metadata order does too."""
    script = (
        "import pathlib, sys, store_factories as f; from adapters_store import files;"
        "files.write(f.adapter_of(*f.random_adapter(3).deltas, notes={'b': '1', 'a': '2'}),"
        " pathlib.Path(sys.argv[1]))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(tmp_path / "other")]
    subprocess.run(command, check=True, env=environment)
    mine = adapter_of(*random_adapter(3).deltas, notes={"a": "2", "b": "1"})
    assert (tmp_path / "other").read_bytes() == _written(tmp_path / "mine", mine).read_bytes()


Edit = Callable[[dict[str, Any]], object]


def _set(key: str, value: str) -> Edit:
    return lambda header: header["__metadata__"].update({key: value})


def _edit_delta(**fields: Any) -> Edit:
    def edit(header: dict[str, Any]) -> None:
        deltas = json.loads(header["__metadata__"]["deltas"])
        deltas[0].update(fields)
        deltas[0] = {key: value for key, value in deltas[0].items() if value is not None}
        header["__metadata__"]["deltas"] = json.dumps(deltas)

    return edit


EDITS: dict[str, tuple[Edit, str]] = {
    "no metadata": (lambda header: header.pop("__metadata__"), "format: 'no format'"),
    "no format": (lambda header: header["__metadata__"].pop("format"), "format: 'no format'"),
    "later format": (_set("format", "intarsia-adapter/2"), "format: 'intarsia-adapter/2', expected"),
    "no digest": (lambda header: header["__metadata__"].pop("digest"), "'digest' is missing"),
    "unknown key": (_set("rank", "3"), "metadata: 'rank' is not a known key"),
    "other digest": (_set("digest", f"sha256:{'0' * 64}"), "digest: the file says 'sha256:0000"),
    "base not JSON": (_set("base", "{"), "base: malformed JSON"),
    "base a list": (_set("base", "[]"), "base: expected a JSON object of strings"),
    "base of numbers": (_set("base", '{"a": 1}'), "base: expected a JSON object of strings"),
    "notes not JSON": (_set("notes", "nope"), "notes: malformed JSON"),
    "notes with NaN": (_set("notes", '{"a": NaN}'), "notes: malformed JSON: NaN is no JSON number"),
    "notes with half a character": (_set("notes", '{"a": "\\ud800"}'), "notes: malformed JSON"),
    "deltas too deep": (_set("deltas", "[" * 100_000), "deltas: malformed JSON"),
    "deltas an object": (_set("deltas", "{}"), "deltas: expected a JSON array"),
    "delta a number": (_set("deltas", "[1]"), "deltas: 1 is not an object"),
    "no deltas": (_set("deltas", "[]"), f"{QKV}.indices: tensor belongs to no delta"),
    "delta twice": (
        lambda header: _set("deltas", json.dumps(json.loads(header["__metadata__"]["deltas"]) * 2))(header),
        f"{QKV}.indices: declared 2 times",
    ),
    "kind unknown": (_edit_delta(kind="tt"), "kind 'tt' is not one of ['element', 'block'"),
    "kind missing": (_edit_delta(kind=None), "kind None is not one of"),
    "kind a list": (_edit_delta(kind=["element"]), "kind ['element'] is not one of"),
    "kind of other tensors": (_edit_delta(kind="bias"), f"{QKV}.bias_delta: tensor is missing"),
    "field unknown": (_edit_delta(block=[1, 2]), "deltas: 'block' is not a field"),
    "layer empty": (_edit_delta(layer=""), "deltas: layer '' is malformed"),
    "layer unprintable": (_edit_delta(layer="a\n"), "deltas: layer 'a\\n' is malformed"),
    "layer other": (_edit_delta(layer="x"), "x.indices: tensor is missing"),
    "shape missing": (_edit_delta(shape=None), "deltas: shape None is malformed"),
    "shape of three": (_edit_delta(shape=[1, 2, 3]), "deltas: shape [1, 2, 3] is malformed"),
    "shape zero": (_edit_delta(shape=[0, 2]), "deltas: shape [0, 2] is malformed"),
    "shape true": (_edit_delta(shape=[True, 2]), "deltas: shape [True, 2] is malformed"),
    "shape huge": (_edit_delta(shape=[2**31, 2]), "deltas: shape [2147483648, 2] is malformed"),
    "scale a number": (_edit_delta(scale=1.0), "deltas: scale 1.0 is malformed"),
    "scale short": (_edit_delta(scale="3f8"), "deltas: scale '3f8' is malformed"),
    "scale upper case": (_edit_delta(scale="3F800000"), "deltas: scale '3F800000' is malformed"),
    "scale changed": (_edit_delta(scale="3f800001"), "digest: the file says"),
    "tensor renamed": (
        lambda header: header.update({"x": header.pop(f"{QKV}.values")}),
        f"{QKV}.values: tensor is missing; x: tensor belongs to no delta",
    ),
    "tensor dtype": (
        lambda header: header[f"{QKV}.indices"].update({"dtype": "U32"}),
        f"{QKV}.indices: dtype torch.uint32 is not one of",
    ),
    "offsets past the end": (
        lambda header: header[f"{QKV}.values"].update({"data_offsets": [768, 1 << 40]}),
        "file: not a whole safetensors file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_file_that_is_not_of_the_format_is_refused(tmp_path: Path, case: str) -> None:
    edit, expected = EDITS[case]
    path = _written(tmp_path / "a", random_adapter())
    header, data = _header(path)
    edit(header)
    _rewrite(path, header, data)
    assert expected in _refused(path)


def test_block_header_needs_block_and_stride(tmp_path: Path) -> None:
    path = _written(tmp_path / "a", random_adapter(kind="block"))
    header, data = _header(path)
    _edit_delta(block=[0, 8], row_stride="1")(header)
    _rewrite(path, header, data)
    message = _refused(path)
    assert "block [0, 8] is malformed" in message
    assert "row_stride '1' is malformed" in message


def test_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "a", metadata={"format": "pt"})
    assert "format: 'pt', expected 'intarsia-adapter/1'" in _refused(tmp_path / "a")


def test_file_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "a", random_adapter())
    content = path.read_bytes()
    for length in [*range(0, len(content), 13), len(content) - 1]:
        path.write_bytes(content[:length])
        assert "not a whole safetensors file" in _refused(path)
    path.write_bytes(content + b"\0")
    assert "not a whole safetensors file" in _refused(path)


@shared_path
@given(st.data())
def test_damaged_bytes_are_refused_or_still_the_same_adapter(
    tmp_path: Path, data: st.DataObject
) -> None:
    adapter = random_adapter(kind=data.draw(st.sampled_from(["element", "block", "low rank"])))
    content = bytearray(_written(tmp_path / "a", adapter).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    try:
        assert files.read(tmp_path / "a").digest == adapter.digest
    except AdapterRefused:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = ["layer", "kind", "shape", "scale", "block", "row_stride"]


@shared_path
@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), json_values, min_size=1))
def test_no_delta_header_does_worse_than_be_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    adapter = random_adapter(kind="block")
    path = _written(tmp_path / "a", adapter)
    header, data = _header(path)
    _edit_delta(**fields)(header)
    _rewrite(path, header, data)
    try:
        check(files.read(path), BASE, LIMITS)
    except AdapterRefused:
        return
    assert files.read(path).digest == adapter.digest


@shared_path
@given(json_values | st.dictionaries(st.just("__metadata__") | st.text(max_size=3), json_values))
def test_no_safetensors_header_does_worse_than_be_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "a"
    _rewrite(path, header, bytes(16))
    assert _refused(path)


def _with_header(path: Path, header: bytes) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


FRAMES: dict[str, tuple[bytes, str]] = {
    "long header": (b'{"a":"' + b"x" * 200 + b'"}', "header bytes: 208 is more than the limit"),
    "many tensors": (json.dumps({f"{i}": {} for i in range(4)}).encode(), "tensors: 4 is more"),
    "large tensor": (b'{"t":{"data_offsets":[0,1025]}}', "bytes of 't': 1025 is more"),
    "no object": (b"[1]", "header: expected a JSON object"),
    "no JSON": (b"{", "header: malformed JSON"),
    "no UTF-8": (b'{"\xff":1}', "header: malformed JSON"),
}


@pytest.mark.parametrize("case", FRAMES)
def test_header_beyond_the_limits_is_refused_before_it_is_used(tmp_path: Path, case: str) -> None:
    header, reason = FRAMES[case]
    limits = replace(LIMITS, max_header_bytes=100, max_tensors=3, max_tensor_bytes=1024)
    with pytest.raises(AdapterRefused, match=reason):
        files.check_frame(_with_header(tmp_path / "f", header), limits)


def test_header_within_the_limits_passes(tmp_path: Path) -> None:
    files.write(random_adapter(), tmp_path / "f")
    files.check_frame(tmp_path / "f", LIMITS)


@shared_path
@given(adapters())
def test_adapter_read_by_two_threads_is_the_same(tmp_path: Path, adapter: SparseAdapter) -> None:
    path = _written(tmp_path / "a", adapter)
    with ThreadPoolExecutor(2) as pool:
        again = files.read(path, pool.map)
    assert again.digest == adapter.digest
    assert [own.layer for own in again.deltas] == [own.layer for own in adapter.deltas]


def test_changed_number_is_refused_whoever_reads_it(tmp_path: Path) -> None:
    path = _written(tmp_path / "a", random_adapter())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with ThreadPoolExecutor(2) as pool, pytest.raises(AdapterRefused, match="digest"):
        files.read(path, pool.map)
