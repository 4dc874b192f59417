"""The optional fields of a generation request, written once for every method that takes them.

A field that is absent or None is not sent: the server's default holds. Fields that are not named
here are sent as they are, so a newer server's options work with `**{"field": value}`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from intarsia_client.types import AdapterWeight


class AdapterFilter(TypedDict, total=False):
    """Which adapters to list: those that everything given holds for."""

    name: str | None  # how names begin
    kind: str | None
    tag: str | None
    task: str | None
    base: str | None
    q: str | None  # anywhere in name, task or description, in any case


class GenerationOptions(TypedDict, total=False):
    """Common to completions and chat. `adapters` is a composition on top of a base `model`."""

    adapters: Sequence[AdapterWeight] | None
    merge: Mapping[str, Any] | None  # {"method": name, **parameters}; only beside `adapters`
    adapter_from: int | Literal["last_turn"] | None  # index of the first token adapters touch
    max_tokens: int | None
    min_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    n: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    prompt_logprobs: int | None
    user: str | None  # a split alias answers a user, or else a session, with one version
    session_id: str | None


class CompletionOptions(GenerationOptions, total=False):
    """`logprobs` is how many alternatives to show; `echo` repeats the prompt before the text."""

    logprobs: int | None
    echo: bool | None


class ChatOptions(GenerationOptions, total=False):
    """`logprobs` asks for them; `top_logprobs` is how many alternatives to show."""

    logprobs: bool | None
    top_logprobs: int | None
