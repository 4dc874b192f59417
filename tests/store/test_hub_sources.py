"""One pinned commit of a hub's repository: that commit, its two files, from known hosts only."""

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapters_store.errors import AdapterTooLarge, SourceNotFound, SourceUnavailable
from adapters_store.sources import AdapterSources
from adapters_store.sources.hub import HubSource

LIMIT = 100
REVISION, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
ENTRY = f"hub:org/name@{REVISION}"
RESOLVE = f"/org/name/resolve/{REVISION}"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"tensors"}
Headers = dict[str, str]


@dataclass
class Site:
    """A web server: answers by path, and who asked for what with which headers."""

    url: str
    answers: dict[str, tuple[int, Headers, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, Headers]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


@pytest.fixture
def open_site() -> Iterator[Callable[[], Site]]:
    opened: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def open_one() -> Site:
        site = Site("")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append((self.command, self.path, headers))
                status, extra, content = site.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                lengths = {"content-length": str(len(content))}
                for name, value in (lengths | extra).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing to say."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        opened.append((server, thread))
        site.url = f"http://127.0.0.1:{server.server_port}"
        return site

    yield open_one
    for server, thread in opened:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(open_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """A hub with the two files at REVISION, small enough to be kept by itself."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    site = open_site()
    for name, content in FILES.items():
        headers = {"x-repo-commit": REVISION, "etag": '"a-git-hash"'}
        site.answers[f"{RESOLVE}/{name}"] = (200, headers, content)
    return site


def sources_of(site: Site, *file_hosts: str, are_signed: bool = False) -> AdapterSources:
    return AdapterSources([HubSource(ENTRY, file_hosts, site.url)], are_signed=are_signed)


def redirect(site: Site, to: str, tag: str = "", name: str = "adapter_model.safetensors") -> None:
    """Keep a file elsewhere, as hubs do with large ones."""
    size = {"x-linked-size": "7", "x-linked-etag": f'"{tag}"'}
    headers = {"x-repo-commit": REVISION, "location": to, **size}
    site.answers[f"{RESOLVE}/{name}"] = (302, headers, b"")


@pytest.mark.parametrize("asked", ["hub:org/name", ENTRY])
def test_pinned_commit_is_fetched(hub: Site, tmp_path: Path, asked: str) -> None:
    fetched = sources_of(hub).fetch(asked, tmp_path, LIMIT)
    with zipfile.ZipFile(fetched.path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    assert {path for _, path, _ in hub.asked} == {f"{RESOLVE}/{name}" for name in FILES}
    assert {headers["authorization"] for *_, headers in hub.asked} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    "asked",
    [
        "org/name",
        "hub:",
        "hub:org/other",
        f"hub:org/name@{OTHER}",
        "hub:org/name@main",
        "hub:org/name/adapter_config.json",
        "hub:org/name/../other",
        "hub:ORG/name",
    ],
)
def test_nothing_else_is_found(hub: Site, tmp_path: Path, asked: str) -> None:
    with pytest.raises(SourceNotFound):
        sources_of(hub).fetch(asked, tmp_path, LIMIT)
    assert hub.asked == []


@pytest.mark.parametrize("missing", FILES)
def test_file_that_the_hub_does_not_have_is_not_found(
    hub: Site, tmp_path: Path, missing: str
) -> None:
    hub.answers[f"{RESOLVE}/{missing}"] = (404, {"x-error-code": "EntryNotFound"}, b"")
    with pytest.raises(SourceNotFound):
        sources_of(hub).fetch(ENTRY, tmp_path, LIMIT)


@pytest.mark.parametrize("commit", [{"x-repo-commit": OTHER}, {}], ids=["another", "none"])
def test_other_commit_is_refused(hub: Site, tmp_path: Path, commit: Headers) -> None:
    hub.answers[f"{RESOLVE}/adapter_config.json"] = (200, {"etag": '"x"', **commit}, b"{}")
    with pytest.raises(SourceUnavailable) as caught:
        sources_of(hub).fetch(ENTRY, tmp_path, LIMIT)
    assert "it answers with" in caught.value.reason


def test_redirect_to_a_host_that_nobody_named_is_refused(
    hub: Site, open_site: Callable[[], Site], tmp_path: Path
) -> None:
    elsewhere = open_site()
    elsewhere.answers["/file"] = (200, {}, b"tensors")
    redirect(hub, f"{elsewhere.url}/file")
    for hosts in ((), ("127.0.0.1",), ("." + elsewhere.host,)):
        with pytest.raises(SourceUnavailable) as caught:
            sources_of(hub, *hosts).fetch(ENTRY, tmp_path, LIMIT)
        assert f"redirects to {elsewhere.url}/file" in caught.value.reason
    assert elsewhere.asked == []


def test_file_host_is_asked_without_the_token_and_leads_no_further(
    hub: Site, open_site: Callable[[], Site], tmp_path: Path
) -> None:
    elsewhere = open_site()
    tag = hashlib.sha256(b"tensors").hexdigest()
    elsewhere.answers["/file"] = (200, {}, b"tensors")
    redirect(hub, f"{elsewhere.url}/file", tag)
    sources = sources_of(hub, elsewhere.host)
    with zipfile.ZipFile(sources.fetch(ENTRY, tmp_path, LIMIT).path) as archive:
        assert archive.read("adapter_model.safetensors") == b"tensors"
    [(_, _, headers)] = elsewhere.asked
    assert "authorization" not in headers
    third = open_site()
    elsewhere.answers["/file"] = (302, {"location": f"{third.url}/file"}, b"")
    with pytest.raises(SourceUnavailable, match="cannot be read now"):
        sources.fetch(ENTRY, tmp_path, LIMIT)
    assert third.asked == []


def test_bytes_that_are_not_those_of_the_commit_are_refused(hub: Site, tmp_path: Path) -> None:
    headers = {"x-repo-commit": REVISION, "etag": f'"{"0" * 64}"'}
    hub.answers[f"{RESOLVE}/adapter_model.safetensors"] = (200, headers, b"tensors")
    with pytest.raises(SourceUnavailable) as caught:
        sources_of(hub).fetch(ENTRY, tmp_path, LIMIT)
    assert "sha256" in caught.value.reason


def test_size_is_limited_before_and_while_it_comes(hub: Site, tmp_path: Path) -> None:
    file = f"{RESOLVE}/adapter_model.safetensors"
    large = b"x" * (LIMIT + 1)
    hub.answers[file] = (200, {"x-repo-commit": REVISION, "etag": '"x"'}, large)
    with pytest.raises(AdapterTooLarge):
        sources_of(hub).fetch(ENTRY, tmp_path, LIMIT)
    assert [method for method, path, _ in hub.asked if path == file] == ["HEAD"]
    hub.answers[file] = (
        200,
        {"x-repo-commit": REVISION, "etag": '"x"', "x-linked-size": "7"},
        large,
    )
    with pytest.raises(AdapterTooLarge):
        sources_of(hub).fetch(ENTRY, tmp_path, LIMIT)


def test_signature_is_read_from_the_same_commit(hub: Site, tmp_path: Path) -> None:
    assert sources_of(hub, are_signed=True).fetch(ENTRY, tmp_path, LIMIT).signature is None
    headers = {"x-repo-commit": REVISION, "etag": '"x"'}
    hub.answers[f"{RESOLVE}/adapter_model.safetensors.sig"] = (200, headers, b"signed")
    assert sources_of(hub, are_signed=True).fetch(ENTRY, tmp_path, LIMIT).signature == "signed"


def test_hub_that_is_not_there_is_unavailable(hub: Site, tmp_path: Path) -> None:
    nowhere = Site("http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable) as caught:
        sources_of(nowhere).fetch(ENTRY, tmp_path, LIMIT)
    assert "127.0.0.1" not in str(caught.value)
