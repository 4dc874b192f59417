"""The grammar of adapter names, references and digests.

Knows only text: whether a name exists is the registry's business.
"""

import re
from dataclasses import dataclass

from adapters_store.errors import InvalidName

_PART = r"[a-z0-9][a-z0-9._-]{0,63}"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

NAME_FORM = "[a-z0-9][a-z0-9._-]{0,63}, optionally after a namespace of that form and '/'"
REFERENCE_FORM = "name, name@3 or name@sha256:<64 hex digits>"
DIGEST_FORM = "sha256:<64 hex digits>"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller names: an adapter, or one version of it by number or by digest."""

    name: str
    version: int | None = None
    digest: str | None = None


def check_name(text: str) -> None:
    """Raise InvalidName unless `text` may name an adapter."""
    if not _NAME.fullmatch(text):
        raise InvalidName("name", text, NAME_FORM)


def check_digest(text: str) -> None:
    """Raise InvalidName unless `text` is a digest."""
    if not _DIGEST.fullmatch(text):
        raise InvalidName("digest", text, DIGEST_FORM)


def parse_reference(text: str) -> Reference:
    """`name`, `name@3` or `name@sha256:...`; InvalidName for anything else."""
    name, at, selector = text.partition("@")
    if not _NAME.fullmatch(name):
        raise InvalidName("reference", text, REFERENCE_FORM)
    if not at:
        return Reference(name)
    if _VERSION.fullmatch(selector):
        return Reference(name, version=int(selector))
    if _DIGEST.fullmatch(selector):
        return Reference(name, digest=selector)
    raise InvalidName("reference", text, REFERENCE_FORM)
