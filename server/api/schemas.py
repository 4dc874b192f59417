"""Request bodies as they come over the wire: OpenAI's, with vLLM's, our own and others' fields.

Strict types. Unknown fields are allowed, as in vLLM, and named in a response header; fields that
would change the answer but are not served are refused, and so is anything that looks like a
misspelt adapter field.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from server.api.members import MAX_MEMBERS, AdapterWeight, LoraScale, MergedAdapters
from server.engine.errors import InvalidParameter
from server.engine.sampling_params import SamplingParams
from server.errors import BadRequest, shown

NOT_SERVED = frozenset(
    {"allowed_token_ids", "audio", "bad_words", "best_of", "chat_template", "documents", "echo"}
    | {"chat_template_kwargs", "continue_final_message", "functions", "function_call"}
    | {"guided_choice", "guided_grammar", "guided_json", "guided_regex", "logprob_token_ids"}
    | {"modalities", "prediction", "prompt_embeds", "return_token_ids", "suffix", "tools"}
    | {"return_tokens_as_token_ids", "structured_outputs", "truncate_prompt_tokens"}
    | {"use_beam_search", "web_search_options"}
)
EMPTY: tuple[Any, ...] = (None, False, [], {}, "")  # as good as absent

MAX_BIAS = 100.0
MAX_TOP_K = 2**31 - 1
MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1
ADAPTER_WORDS = ("adapter", "lora", "merge")
TOKEN_ID = re.compile("[0-9]{1,18}", re.ASCII)


def one_of(expected: str) -> WrapValidator:
    """One message for a union, instead of one for each of its members."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError(
                "union", "must be {expected}", {"expected": expected}
            ) from error

    return WrapValidator(validate)


Prompts = Annotated[
    str | list[str] | list[int] | list[list[int]],
    one_of("a string, a list of strings, a list of token ids or a list of such lists"),
]
Stop = Annotated[str | list[str] | None, one_of("a string or a list of strings")]
AdapterStart = Annotated[int | Literal["last_turn"], one_of("a token index or 'last_turn'")]


class StreamOptions(BaseModel):
    """OpenAI's, and vLLM's usage on every chunk."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False
    continuous_usage_stats: bool = False


class OpenBody(BaseModel):
    """A body that may hold more than is read here, as other servers' clients send it."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_sendable(cls, body: Any) -> Any:
        """Raise BadRequest for text that no UTF-8 can hold, which JSON escapes can smuggle in."""
        for name, value in body.items() if isinstance(body, dict) else ():
            check_sendable(name, value)
        return body

    def refuse_not_served(self) -> None:
        """Raise BadRequest for a field that would change the answer but is not served."""
        extra = {name: value for name, value in self._extra.items() if value not in EMPTY}
        response_format = extra.pop("response_format", None)
        if response_format not in (None, {"type": "text"}):
            raise BadRequest(
                f"response_format {shown(response_format)} is not served", "response_format"
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


class GenerationBody(OpenBody):
    """What both generation routes take."""

    adapters: list[AdapterWeight] | None = Field(None, min_length=1, max_length=MAX_MEMBERS)
    merge: dict[str, Any] | None = None  # the method, and its parameters
    adapter_id: str | None = None  # this, its source and the next are LoRAX's
    adapter_source: str | None = None
    merged_adapters: MergedAdapters | None = None
    lora: list[LoraScale] | None = Field(None, max_length=MAX_MEMBERS)  # llama.cpp's
    adapter_from: AdapterStart = 0
    mode: Literal["batched", "fused", "auto"] | None = None

    n: int = Field(1, ge=1, le=64)
    seed: int | None = Field(None, ge=MIN_SEED, le=MAX_SEED)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, le=MAX_TOP_K)
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop = None
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
    session_id: str | None = None

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
    content: Annotated[str | list[ContentPart], one_of("a string, or parts of type 'text'")]

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


def check_sendable(name: str, value: Any) -> None:
    try:
        json.dumps([name, value], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        field = name.encode(errors="replace").decode()
        raise BadRequest(f"{field}: holds a lone surrogate, which is no text", field) from error
    except RecursionError as error:
        raise BadRequest(f"{name}: nested too deeply", name) from error


def _token_bias(bias: dict[str, float]) -> dict[int, float]:
    for token_id, value in bias.items():
        if not TOKEN_ID.fullmatch(token_id):
            raise InvalidParameter("logit_bias", token_id[:100], "keyed by token ids")
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidParameter("logit_bias", value, f"from {-MAX_BIAS:g} to {MAX_BIAS:g}")
    return {int(token_id): value for token_id, value in bias.items()}
