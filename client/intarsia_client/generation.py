"""Generated text as the server answers it, as frozen values. Knows JSON, nothing of HTTP.

Reading raises KeyError, TypeError or ValueError on any other shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from intarsia_client.types import Answer, Json


@dataclass(frozen=True, slots=True)
class Served:
    """What served a generation, from the response headers; None where the server did not say."""

    request_id: str | None = None
    composition: str | None = None
    digest: str | None = None
    mode: str | None = None
    ignored_fields: tuple[str, ...] = ()  # request fields that the server does not know

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        ignored = headers.get("x-intarsia-ignored-fields")
        return cls(
            request_id=headers.get("x-request-id"),
            composition=headers.get("x-intarsia-composition"),
            digest=headers.get("x-intarsia-digest"),
            mode=headers.get("x-intarsia-mode"),
            ignored_fields=tuple(ignored.split(",")) if ignored else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Answer):
    """Tokens counted by the server; `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(
            prompt_tokens=raw["prompt_tokens"],
            completion_tokens=raw["completion_tokens"],
            total_tokens=raw["total_tokens"],
            cached_tokens=(raw.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Answer):
    """One of the `n` answers, or the piece of it that one chunk carries.

    `finish_reason` is None on every chunk of a choice but its last.
    """

    index: int
    text: str
    finish_reason: str | None
    logprobs: Json | None

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        return cls(
            index=raw["index"],
            text=_choice_text(raw),
            finish_reason=raw["finish_reason"],
            logprobs=raw.get("logprobs"),
            raw=raw,
        )


def _choice_text(raw: Json) -> str:
    """The text of a completion's choice, or the content of a chat's message or delta."""
    if "text" in raw:
        return str(raw["text"])
    message = raw["message"] if "message" in raw else raw["delta"]
    return message.get("content") or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Answer):
    """What completions, chat completions and their chunks have in common."""

    id: str
    model: str
    created: int
    choices: tuple[Choice, ...]
    usage: Usage | None
    served: Served

    @classmethod
    def from_json(cls, raw: Json, served: Served) -> Self:
        return cls(
            id=raw["id"],
            model=raw["model"],
            created=raw["created"],
            choices=tuple(map(Choice.from_json, raw["choices"])),
            usage=Usage.from_json(raw["usage"]) if raw.get("usage") else None,
            served=served,
            raw=raw,
        )

    @property
    def text(self) -> str:
        """The text of the first choice; empty on a chunk that carries none of it."""
        return next((choice.text for choice in self.choices if choice.index == 0), "")

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; None while it has not."""
        return next((choice.finish_reason for choice in self.choices if choice.index == 0), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Generation):
    """The answer to a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion(Generation):
    """The answer to a conversation."""

    @property
    def message(self) -> Json:
        """The first choice's message as the server sent it, ready to go on with."""
        message: Json = self.choices[0].raw["message"]
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Generation):
    """A piece of a streamed answer; the last has `usage` and no choices."""
