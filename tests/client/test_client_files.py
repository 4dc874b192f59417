"""Uploads and downloads: what leaves this machine, and what a failure leaves behind."""

import email
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from intarsia_client import ConnectionFailed, InvalidArgument, NotFound


class Server:
    """Takes one upload and keeps its query and its form: `{field: (file name, bytes)}`."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.form: dict[str, tuple[str | None, bytes]] = {}
        self.query: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/adapters")
        self.query = dict(request.url.params)
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        for part in email.message_from_bytes(head + request.content).walk():
            name = part.get_param("name", header="content-disposition")
            if isinstance(name, str):
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                self.form[name] = (part.get_filename(), content)
        return httpx.Response(201, json=self.answer)


@pytest.fixture
def server(adapter_json: dict[str, Any]) -> Server:
    return Server(adapter_json)


@pytest.fixture
def peft_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    (directory / "checkpoint-10").mkdir(parents=True)
    (directory / "adapter_config.json").write_bytes(b"{}")
    (directory / "adapter_model.safetensors").write_bytes(b"weights" * 20_000)
    (directory / "optimizer.pt").write_bytes(b"secret")
    return directory


@pytest.mark.parametrize("name", ["a.safetensors", "a.zip", "a.tar.gz"])
def test_file_is_sent_as_it_is(drive: Any, server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00weights\r\n")
    adapter = drive(server, "upload", tmp_path / name, "ns/sql")
    assert adapter.id == "sql@3"
    assert server.form == {"file": (name, b"\x00weights\r\n"), "name": (None, b"ns/sql")}
    assert server.query == {}


def test_metadata_and_dry_run_are_sent(drive: Any, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x")
    drive(server, "upload", str(path), "sql", {"task": "é", "n": 1}, dry_run=True)
    assert json.loads(server.form["metadata"][1]) == {"task": "é", "n": 1}
    assert server.query == {"dry_run": "true"}


def test_metadata_that_json_cannot_hold_is_refused(drive: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    with pytest.raises(InvalidArgument, match="metadata"):
        drive(lambda _: pytest.fail("it was sent"), "upload", path, "sql", {"loss": float("nan")})


def test_directory_is_packed_with_the_two_files_that_count(
    drive: Any, server: Server, peft_directory: Path
) -> None:
    drive(server, "upload", peft_directory, "sql")
    filename, content = server.form["file"]
    assert filename == "out.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors"]
        weights = tar.extractfile("adapter_model.safetensors")
        assert weights is not None
        assert weights.read() == b"weights" * 20_000


def test_linked_weights_are_packed_as_a_file(
    drive: Any, server: Server, peft_directory: Path
) -> None:
    weights = peft_directory / "adapter_model.safetensors"
    weights.symlink_to(weights.rename(peft_directory / "blob"))
    drive(server, "upload", peft_directory, "sql")
    with tarfile.open(fileobj=io.BytesIO(server.form["file"][1]), mode="r:gz") as tar:
        assert all(member.isfile() for member in tar)


def test_progress_rises_to_the_size_of_the_file(
    drive: Any, server: Server, peft_directory: Path
) -> None:
    seen: list[tuple[int, int]] = []
    drive(
        server, "upload", peft_directory, "sql", on_progress=lambda *progress: seen.append(progress)
    )
    size = len(server.form["file"][1])
    assert seen[-1] == (size, size)
    assert len({sent for sent, _ in seen}) > 2
    assert seen == sorted(seen)


WRONG = [
    pytest.param("missing", "neither a file nor a directory", id="missing"),
    pytest.param("a.bin", r"none of .safetensors, .zip, .tar.gz", id="other-suffix"),
    pytest.param("empty", "no adapter_config.json and no adapter_model", id="not-peft"),
    pytest.param("half", "has no adapter_model.safetensors", id="no-weights"),
]


@pytest.mark.parametrize(("name", "reason"), WRONG)
def test_what_cannot_be_an_adapter_is_not_sent(
    drive: Any, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    for directory in ("empty", "half"):
        (tmp_path / directory).mkdir()
    (tmp_path / "half" / "adapter_config.json").write_bytes(b"{}")
    with pytest.raises(InvalidArgument, match=reason):
        drive(lambda _: pytest.fail("it was sent"), "upload", tmp_path / name, "sql")


def test_download_replaces_the_file(drive: Any, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"old")
    found = drive(lambda _: httpx.Response(200, content=b"new"), "download", "sql", str(target))
    assert found == target
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Half a file, and then the connection breaks."""

    def __iter__(self) -> Any:
        yield b"ha"
        raise httpx.RemoteProtocolError("peer closed connection")

    async def __aiter__(self) -> Any:
        for block in self:
            yield block


@pytest.mark.parametrize(
    ("response", "error"),
    [
        pytest.param(lambda: httpx.Response(404), NotFound, id="refused"),
        pytest.param(lambda: httpx.Response(200, stream=Cut()), ConnectionFailed, id="cut"),
    ],
)
def test_failed_download_changes_nothing(
    drive: Any, tmp_path: Path, response: Any, error: type[Exception]
) -> None:
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(error):
        drive(lambda _: response(), "download", "sql", target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
