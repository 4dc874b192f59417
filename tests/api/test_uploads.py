"""Uploads stream into a quarantine that nothing outlives; downloads are tagged with digests."""

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api.conftest import UPLOAD_LIMIT
from servers import RunningServer, file_bytes
from tiny_adapters import QKV, make_adapter

from adapters_store.errors import AdapterTooLarge
from server.api.multipart import FormReader
from server.errors import BadRequest

TEXTS = frozenset({"name", "metadata"})
CHUNK = 1 << 16
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
TAIL = b'\r\n--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nsql\r\n--b--\r\n'


class Counter(io.RawIOBase):
    """Counts what is written, and keeps none of it."""

    num_bytes = 0

    def write(self, data: Any, /) -> int:
        self.num_bytes += len(data)
        return len(data)


def _reader(target: Any, limit: int = 1 << 40) -> FormReader:
    return FormReader(b"b", target, TEXTS, limit)


def _peak_of_a_long_file() -> int:
    target, chunk = Counter(), bytes(CHUNK)
    reader = _reader(target)
    tracemalloc.start()
    reader.feed(HEAD)
    for _ in range(2000):
        reader.feed(chunk)
    reader.feed(TAIL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.finish() == {"name": "sql"}
    assert target.num_bytes == 2000 * CHUNK
    return peak


def test_memory_does_not_grow_with_the_file() -> None:
    # The best of three: threads of servers that look for jobs meanwhile are counted too.
    assert min(_peak_of_a_long_file() for _ in range(3)) < 4 * CHUNK


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_every_cut_of_the_body_reads_the_same(size: int) -> None:
    content = bytes(range(256)) + b"\r\n--\r\n\r\n-\r\n--a"
    body = HEAD + content + TAIL
    target = io.BytesIO()
    reader = _reader(target)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    assert reader.finish() == {"name": "sql"}
    assert target.getvalue() == content


def test_no_more_than_the_limit_is_written() -> None:
    target = Counter()
    reader = _reader(target, limit=3 * CHUNK)
    reader.feed(HEAD)
    for _ in range(3):
        reader.feed(bytes(CHUNK))
    with pytest.raises(AdapterTooLarge):
        reader.feed(b"x" * CHUNK)
    assert target.num_bytes <= 3 * CHUNK


@pytest.mark.parametrize("cut", [1, len(TAIL) - 3])
def test_a_body_that_ends_early_is_refused(cut: int) -> None:
    reader = _reader(Counter())
    reader.feed(HEAD + TAIL[:-cut] if cut > 1 else HEAD + b"x")
    with pytest.raises(BadRequest, match="before its last boundary"):
        reader.finish()


def test_endless_headers_are_refused() -> None:
    reader = _reader(Counter())
    reader.feed(b"--b\r\nContent-Disposition: ")
    with pytest.raises(BadRequest, match="cannot be read"):
        reader.feed(b"x" * 100_000)


def _quarantined(server: RunningServer) -> list[Path]:
    return list((server.settings.data_dir / "adapters" / "quarantine").iterdir())


def test_nothing_is_left_of_an_upload_whatever_becomes_of_it(
    http: httpx.Client, server: RunningServer
) -> None:
    good = file_bytes(make_adapter(server.base, layers=[QKV]))
    for content, status in ((good, 201), (b"bad", 422), (bytes(UPLOAD_LIMIT + 1), 413)):
        answer = http.post("/v1/adapters", data={"name": "left"}, files={"file": content})
        assert answer.status_code == status
        assert _quarantined(server) == []
    http.delete("/v1/adapters/left")


def test_nothing_is_left_when_the_client_goes_away(server: RunningServer) -> None:
    def half() -> Iterator[bytes]:
        yield HEAD + b"x" * 1000
        raise ConnectionResetError("the client dies")

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with server.http() as http, pytest.raises(ConnectionResetError):
        http.post("/v1/adapters", content=half(), headers=headers)
    server.assert_idle()
    assert _quarantined(server) == []


def test_a_download_that_the_client_has_already_is_not_sent(
    http: httpx.Client, server: RunningServer
) -> None:
    path = f"/v1/adapters/{server.publish('tagged')}/file"
    whole = http.get(path)
    tag = whole.headers["etag"]
    assert tag == f'"{http.get("/v1/adapters/tagged").json()["digest"]}"'
    for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = http.get(path, headers={"if-none-match": given})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    other = http.get(path, headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, whole.content)
    part = http.get(path, headers={"range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    http.delete("/v1/adapters/tagged")


def test_a_download_that_races_a_delete_is_not_found(
    http: httpx.Client, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v1/adapters/{server.publish('raced', seed=77)}/file"
    store = server.services.store
    open_blob = store.open_blob

    def delete_first(digest: str) -> Any:
        store.delete("raced")
        return open_blob(digest)

    monkeypatch.setattr(store, "open_blob", delete_first)
    assert http.get(path).status_code == 404


def test_stats_agree_with_the_upload_and_know_the_split_layers(
    http: httpx.Client, server: RunningServer
) -> None:
    shown = server.upload(make_adapter(server.base, "element", 5), "measured")
    stats = http.get("/v1/adapters/measured/stats").json()
    assert stats.pop("id") == shown["id"]
    assert stats.pop("object") == "adapter.stats"
    assert stats == shown["effect"]
    assert (stats["digest"], stats["base_matches"]) == (shown["digest"], True)
    names = {e["layer"]: [part["name"] for part in e["parts"]] for e in stats["layers"]}
    assert names[QKV] == ["q_proj", "k_proj", "v_proj"]
    for effect in stats["layers"]:
        assert effect["nnz"] == sum(p["nnz"] for p in effect["parts"]) or not effect["parts"]
        assert effect["changed"]["bfloat16"] <= effect["changed"]["float32"] <= 1
    http.delete("/v1/adapters/measured")
    assert http.get("/v1/adapters/measured/stats").status_code == 404
