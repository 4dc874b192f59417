"""`s3://bucket/prefix`: what lies under a prefix of an S3 bucket, read as a stream.

Uses botocore, not fsspec: its S3 driver follows HTTP redirects wherever they lead. Endpoint and
credentials are the AWS SDK's own settings.
"""

from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters_store.errors import SourceUnavailable
from adapters_store.sources.source import (
    below,
    check_size,
    chunks_of,
    joined,
    unavailable,
    write_bounded,
)

SCHEME = "s3://"
ABSENT = frozenset({"404", "NoSuchKey"})
HTTP_REDIRECTS = range(300, 400)


class BucketSource:
    """Asked for by the whole URL."""

    def __init__(self, url: str) -> None:
        """Raises ValueError where `url` names no bucket, or the driver is not installed."""
        self._bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        self._prefix = prefix.rstrip("/")
        self._url = f"{SCHEME}{joined(self._bucket, self._prefix)}".rstrip("/")
        if not self._bucket:
            raise ValueError(f"{url!r} names no bucket")
        _check_installed()

    def locate(self, asked: str) -> str | None:
        return below(self._url, asked)

    def copy(self, path: str, target: Path, max_bytes: int) -> bool:
        from botocore.exceptions import ClientError

        with unavailable(self._url):
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=joined(self._prefix, path)
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ABSENT:
                    return False
                raise
            with closing(answer["Body"]) as body:
                check_size(answer["ContentLength"], max_bytes)
                write_bounded(chunks_of(body), target, max_bytes)
        return True

    @cached_property
    def _client(self) -> Any:
        import botocore.session

        client = botocore.session.get_session().create_client("s3")
        client.meta.events.register("before-parse.s3", self._refuse_redirect)
        return client

    def _refuse_redirect(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        if response_dict["status_code"] in HTTP_REDIRECTS:
            leads_to = response_dict["headers"].get("location")
            raise SourceUnavailable(self._url, f"it redirects to {leads_to!r}")


def _check_installed() -> None:
    try:
        import botocore.session  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"{SCHEME} needs the extra 's3': {error}") from error
