"""The grammar of adapter names, references and digests.

Knows only text: whether a name exists is the registry's business.
"""

import re
from dataclasses import dataclass

from adapters_store.errors import InvalidName

_PART = r"[a-z0-9][a-z0-9._-]{0,63}"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# Versions are all digits, digests begin with their algorithm: no alias is mistaken for one.
_ALIAS = re.compile(rf"(?![0-9]+$)(?!sha256){_PART}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

NAME_FORM = "[a-z0-9][a-z0-9._-]{0,63}, optionally after a namespace of that form and '/'"
ALIAS_FORM = "[a-z0-9][a-z0-9._-]{0,63}, not all digits, not beginning with 'sha256'"
REFERENCE_FORM = "name, name@3, name@alias or name@sha256:<64 hex digits>"
DIGEST_FORM = "sha256:<64 hex digits>"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller names: an adapter, or one version by number or digest, or an alias."""

    name: str
    version: int | None = None
    digest: str | None = None
    alias: str | None = None

    @property
    def selector(self) -> str | None:
        """What follows the `@`; None of a bare name."""
        return self.digest or self.alias or (str(self.version) if self.version else None)

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}" if self.selector else self.name


def check_name(text: str) -> None:
    """Raise InvalidName unless `text` may name an adapter."""
    if not _NAME.fullmatch(text):
        raise InvalidName("name", text, NAME_FORM)


def check_alias(text: str) -> None:
    """Raise InvalidName unless `text` may be an alias."""
    if not _ALIAS.fullmatch(text):
        raise InvalidName("alias", text, ALIAS_FORM)


def check_digest(text: str) -> None:
    """Raise InvalidName unless `text` is a digest."""
    if not _DIGEST.fullmatch(text):
        raise InvalidName("digest", text, DIGEST_FORM)


def parse_reference(text: str) -> Reference:
    """`name`, `name@3`, `name@alias` or `name@sha256:...`; InvalidName for anything else."""
    name, at, selector = text.partition("@")
    if not _NAME.fullmatch(name):
        raise InvalidName("reference", text, REFERENCE_FORM)
    if not at:
        return Reference(name)
    if _VERSION.fullmatch(selector):
        return Reference(name, version=int(selector))
    if _DIGEST.fullmatch(selector):
        return Reference(name, digest=selector)
    if _ALIAS.fullmatch(selector):
        return Reference(name, alias=selector)
    raise InvalidName("reference", text, REFERENCE_FORM)
