"""Request bodies as they come over the wire: OpenAI's, with vLLM's and our own fields.

Strict types. Unknown fields are allowed, as in vLLM, and named in a response header; fields that
would change the answer but are not served are refused, and so is anything that looks like a
misspelt adapter field.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.engine.sampling_params import SamplingParams
from server.errors import BadRequest

NOT_SERVED = frozenset(
    {"allowed_token_ids", "audio", "bad_words", "best_of", "functions", "function_call"}
    | {"guided_choice", "guided_grammar", "guided_json", "guided_regex", "lora", "lora_path"}
    | {"merged_adapters", "mode", "modalities", "structured_outputs", "suffix", "tools"}
    | {"truncate_prompt_tokens", "use_beam_search"}
)
EMPTY: tuple[Any, ...] = (None, [], {}, "")  # as good as absent
Prompts = str | list[str] | list[int] | list[list[int]]

MAX_WEIGHT = 1e6
ADAPTER_WORDS = ("adapter", "lora", "merge")


class AdapterWeight(BaseModel):
    """One member of a composition."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str
    weight: float = Field(1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)


class Merge(BaseModel):
    """How members become one change. Linear: the weighted sum, exact, without merging."""

    model_config = ConfigDict(strict=True, extra="forbid")

    method: Literal["linear"]


class StreamOptions(BaseModel):
    """OpenAI's, and vLLM's usage on every chunk."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(BaseModel):
    """What both generation routes take."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    adapters: list[AdapterWeight] | None = Field(None, min_length=1, max_length=64)
    merge: Merge | None = None
    adapter_from: int | Literal["last_turn"] = 0

    n: int = Field(1, ge=1, le=64)
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    prompt_logprobs: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    cache_salt: str = ""
    user: str | None = None

    def refuse_not_served(self) -> None:
        """Raise BadRequest for a field that would change the answer but is not served."""
        extra = {name: value for name, value in self._extra.items() if value not in EMPTY}
        response_format = extra.pop("response_format", None)
        if response_format not in (None, {"type": "text"}):
            raise BadRequest(
                f"response_format {response_format!r} is not served", "response_format"
            )
        for name in extra:
            if name in NOT_SERVED:
                raise BadRequest(f"{name} is not served", name)
            if any(word in name.lower() for word in ADAPTER_WORDS):
                raise BadRequest(f"{name} is no field of this route; see 'adapters'", name)

    @property
    def ignored_fields(self) -> list[str]:
        """Unknown fields that change nothing here."""
        return sorted(self._extra.keys() - {"response_format"})

    @property
    def _extra(self) -> dict[str, Any]:
        return self.model_extra or {}

    def sampling(
        self,
        *,
        max_tokens: int,
        logprobs: int | None,
        prompt_logprobs: int | None,
        seed: int,
        defaults: dict[str, Any],
    ) -> SamplingParams:
        """The engine's parameters; `defaults` are the checkpoint's, under the request's own."""
        chosen = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        chosen["repetition_penalty"] = self.repetition_penalty
        own = {name: value for name, value in chosen.items() if value is not None}
        return SamplingParams(
            max_tokens=max_tokens,
            seed=seed,
            **{**defaults, **own},
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_token_bias(self.logit_bias or {}),
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or []),
            stop_token_ids=frozenset(self.stop_token_ids or []),
            include_stop_str_in_output=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            min_tokens=self.min_tokens,
            skip_special_tokens=self.skip_special_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    prompt: Prompts
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False
    add_special_tokens: bool = True


class ContentPart(BaseModel):
    """A piece of a message; only text is served."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | list[ContentPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    add_generation_prompt: bool = True


def _token_bias(bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): value for token_id, value in bias.items()}
    except ValueError as error:
        raise BadRequest(f"logit_bias: a key is not a token id: {error}", "logit_bias") from error
