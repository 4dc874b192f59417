"""Adapters under a prefix of a bucket; a server that redirects is not followed."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from s3_server import make_bucket, s3_server

from adapters_store.errors import AdapterTooLarge, SourceNotFound, SourceUnavailable
from adapters_store.sources import AdapterSources

LIMIT = 100
FILES = {
    "team/a.safetensors": b"adapter",
    "team/a.safetensors.sig": b"signed",
    "team/peft/adapter_config.json": b"{}",
    "team/peft/adapter_model.safetensors": b"tensors",
    "team/large.safetensors": b"x" * (LIMIT + 1),
    "team-not/a.safetensors": b"secret",
    "secret.safetensors": b"secret",
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> str:
    name = make_bucket(endpoint)
    client = boto3.client("s3", endpoint_url=endpoint)
    for key, content in FILES.items():
        client.put_object(Bucket=name, Key=key, Body=content)
    return name


def test_files_and_directories_under_the_prefix_are_fetched(bucket: str, tmp_path: Path) -> None:
    url = f"s3://{bucket}/team"
    sources = AdapterSources.parse([url])
    fetched = sources.fetch(f"{url}/a.safetensors", tmp_path, LIMIT)
    assert (fetched.path.read_bytes(), fetched.signature) == (b"adapter", None)
    assert sources.fetch(f"{url}/peft", tmp_path, LIMIT).path.read_bytes().startswith(b"PK")
    signed = AdapterSources.parse([f"{url}/"], are_signed=True)
    assert signed.fetch(f"{url}/a.safetensors", tmp_path, LIMIT).signature == "signed"
    assert signed.fetch(f"{url}/peft", tmp_path, LIMIT).signature is None


def test_whole_bucket_may_be_allowed(bucket: str, tmp_path: Path) -> None:
    sources = AdapterSources.parse([f"s3://{bucket}"])
    path = f"s3://{bucket}/team/a.safetensors"
    assert sources.fetch(path, tmp_path, LIMIT).path.read_bytes() == b"adapter"


@pytest.mark.parametrize(
    "path",
    [
        "s3://{bucket}/secret.safetensors",
        "s3://{bucket}/team/../secret.safetensors",
        "s3://{bucket}/team-not/a.safetensors",
        "s3://{bucket}/team/%2e%2e/secret.safetensors",
        "s3://{bucket}/team//a.safetensors",
        "s3://{bucket}/team/a.safetensors?versionId=1",
        "s3://{bucket}/team/*.safetensors",
        "s3://{bucket}/team/missing.safetensors",
        "s3://{bucket}/team",
        "s3://other-bucket/team/a.safetensors",
        "s3://key:secret@{bucket}/team/a.safetensors",
        "s3a://{bucket}/team/a.safetensors",
        "S3://{bucket}/team/a.safetensors",
    ],
)
def test_nothing_else_is_found(bucket: str, tmp_path: Path, path: str) -> None:
    sources = AdapterSources.parse([f"s3://{bucket}/team"])
    with pytest.raises(SourceNotFound):
        sources.fetch(path.format(bucket=bucket), tmp_path, LIMIT)


def test_object_over_the_limit_is_not_downloaded(bucket: str, tmp_path: Path) -> None:
    url = f"s3://{bucket}/team"
    with pytest.raises(AdapterTooLarge):
        AdapterSources.parse([url]).fetch(f"{url}/large.safetensors", tmp_path, LIMIT)
    assert list(tmp_path.iterdir()) == []


def test_bucket_that_is_not_there_is_the_operators_affair(endpoint: str, tmp_path: Path) -> None:
    sources = AdapterSources.parse(["s3://no-such-bucket/x"])
    with pytest.raises(SourceUnavailable) as caught:
        sources.fetch("s3://no-such-bucket/x/a.zip", tmp_path, LIMIT)
    assert "NoSuchBucket" in caught.value.reason
    assert "bucket" not in str(caught.value)


class _Redirecting(BaseHTTPRequestHandler):
    """Sends everybody to the same path under /elsewhere, which it would serve."""

    paths: list[str]
    status: int

    def do_GET(self) -> None:
        self.paths.append(self.path)
        if self.path.startswith("/elsewhere"):
            self.send_response(200)
            self.send_header("content-length", "6")
            self.end_headers()
            self.wfile.write(b"secret")
            return
        self.send_response(self.status)
        self.send_header("location", f"http://{self.headers['host']}/elsewhere{self.path}")
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    paths: list[str] = []
    handler = type("Handler", (_Redirecting,), {"paths": paths, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        sources = AdapterSources.parse(["s3://bucket/x"])
        with pytest.raises(SourceUnavailable) as caught:
            sources.fetch("s3://bucket/x/a.zip", tmp_path, LIMIT)
        server.shutdown()
        thread.join()
    assert "redirects" in caught.value.reason
    assert paths == ["/bucket/x/a.zip"]
