"""`/tokenize`, `/detokenize`, `/tokenizer_info`: the tokenizer over HTTP, as vLLM serves it.

Adapters change no vocabulary: every model here has the base's tokenizer.
"""

from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from server.api.dialects import adapter_of
from server.api.prompts import check_ids, render, turns
from server.api.recipes import find_adapter
from server.api.schemas import Message, OpenBody
from server.api.services import Services, ServicesDep, require_json
from server.errors import BadRequest

router = APIRouter()
wants_json = [Depends(require_json)]


class TokenizeBody(OpenBody):
    """`POST /tokenize`: a text or a conversation."""

    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool | None = None  # true for a text, false for a conversation
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class DetokenizeBody(OpenBody):
    """`POST /detokenize`."""

    tokens: list[int]


@router.post("/tokenize", dependencies=wants_json)
async def tokenize(body: TokenizeBody, services: ServicesDep) -> JSONResponse:
    """Token ids of what a completion or a chat with this text would begin with."""
    return await run_in_threadpool(_tokenize, body, services)


@router.post("/detokenize", dependencies=wants_json)
async def detokenize(body: DetokenizeBody, services: ServicesDep) -> JSONResponse:
    """The text of token ids, special tokens among it."""
    return await run_in_threadpool(_detokenize, body, services)


@router.get("/tokenizer_info")
async def tokenizer_info(services: ServicesDep) -> JSONResponse:
    """What `tokenizer_config.json` says, and the chat template."""
    return JSONResponse(services.codec.describe())


def _tokenize(body: TokenizeBody, services: Services) -> JSONResponse:
    _check(body, services)
    ids, codec = _encode(body, services), services.codec
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": services.max_model_len,
        "tokens": ids,
        "token_strs": [codec.vocabulary_text(i) for i in ids] if body.return_token_strs else None,
    }
    return JSONResponse(answer)


def _encode(body: TokenizeBody, services: Services) -> list[int]:
    special = body.add_special_tokens
    if body.prompt is not None and body.messages is None:
        return services.codec.encode(body.prompt, add_special_tokens=special is not False)
    if body.messages is not None and body.prompt is None:
        messages = turns(body.messages)
        return render(messages, body.add_generation_prompt, services.codec, special is True)
    raise BadRequest("prompt: give either prompt or messages", "prompt")


def _detokenize(body: DetokenizeBody, services: Services) -> JSONResponse:
    _check(body, services)
    check_ids(body.tokens, services.vocab_size, "tokens")
    return JSONResponse({"prompt": services.codec.decode(body.tokens, False)})


def _check(body: OpenBody, services: Services) -> None:
    """Raise ModelNotFound for a model that is not here, BadRequest for what is not served."""
    body.refuse_not_served()
    name = adapter_of(body.model, services.base_name)
    if name is not None:
        find_adapter(services.store, name, "model")
