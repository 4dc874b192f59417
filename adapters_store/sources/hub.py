"""`hub:org/name@revision`: one commit of a model repository, read through huggingface_hub.

Endpoint, token and offline mode are that package's own settings. A hub keeps large files on other
hosts and redirects there: only hosts that the operator named are followed, without the token.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers

from adapters_store.errors import SourceUnavailable
from adapters_store.sources.source import CHUNK_BYTES, check_size, unavailable, write_bounded

SCHEME = "hub:"
TIMEOUT_S = 60.0  # without a byte
_ENTRY = re.compile(r"hub:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([0-9a-f]{40})", re.ASCII)
_SHA256 = re.compile("[0-9a-f]{64}")  # the tag of a large file; others have git's


class HubSource:
    """Asked for as `hub:org/name`, or with the very revision that the operator pinned."""

    def __init__(self, entry: str, file_hosts: Sequence[str], endpoint: str | None = None) -> None:
        """Raises ValueError unless `entry` has a revision of 40 hexadecimal digits."""
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry!r} is not of the form hub:org/name@<40 hex digits>")
        self._entry = entry
        self._repository, self._revision = match.groups()
        self._endpoint = endpoint or constants.ENDPOINT
        self._file_hosts = tuple(file_hosts)

    def locate(self, asked: str) -> str | None:
        return "" if asked in (self._entry, f"{SCHEME}{self._repository}") else None

    def copy(self, path: str, target: Path, max_bytes: int) -> bool:
        with unavailable(self._entry):
            url = hf_hub_url(
                self._repository, path, revision=self._revision, endpoint=self._endpoint
            )
            try:
                found = get_hf_file_metadata(url, endpoint=self._endpoint)
            except HfHubHTTPError as error:
                if error.response.status_code == 404:
                    return False
                raise
            if found.commit_hash != self._revision:
                raise SourceUnavailable(self._entry, f"it answers with {found.commit_hash}")
            check_size(found.size or 0, max_bytes)
            chunks = _verified(self._download(found.location), found.etag or "")
            write_bounded(chunks, target, max_bytes)
        return True

    def _download(self, location: str) -> Iterator[bytes]:
        headers = {"accept-encoding": "identity"}
        if _origin(location) == _origin(self._endpoint):
            headers |= build_hf_headers()
        elif not self._is_file_host(location):
            raise SourceUnavailable(
                self._entry, f"it redirects to {location}, whose host is not one of hub_file_hosts"
            )
        options = {"headers": headers, "follow_redirects": False, "timeout": TIMEOUT_S}
        with get_session().stream("GET", location, **options) as response:
            if response.status_code != 200:
                raise SourceUnavailable(self._entry, f"{location}: HTTP {response.status_code}")
            yield from response.iter_bytes(CHUNK_BYTES)

    def _is_file_host(self, location: str) -> bool:
        """By name and port; an entry that begins with a dot stands for all hosts below it."""
        host = urlsplit(location).netloc
        return any(
            host == each or (each.startswith(".") and host.endswith(each))
            for each in self._file_hosts
        )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _verified(chunks: Iterable[bytes], tag: str) -> Iterator[bytes]:
    """The chunks; at their end ValueError if the tag is a sha256, but not theirs."""
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(chunk)
        yield chunk
    if _SHA256.fullmatch(tag) and hashed.hexdigest() != tag:
        raise ValueError(f"the bytes have sha256 {hashed.hexdigest()}, not {tag}")
