"""Routers as bodies write them: ways to take adapters that depend on the token, not on a recipe."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters_store.errors import InvalidMerge
from server.adapters.composition import MAX_TEMPERATURE, MIN_TEMPERATURE, Composition

ARROW = "arrow"


class _Arrow(BaseModel):
    """The fields of `merge` for Arrow."""

    model_config = ConfigDict(strict=True, extra="forbid")

    method: Literal["arrow"]
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None


ROUTERS: tuple[Mapping[str, Any], ...] = (
    {
        "name": ARROW,
        "summary": "per token and linear layer, shares = softmax(|x . v| / temperature) of each "
        "adapter's top right-singular vector v; output W x + sum of share w D x; in requests only",
        "paper": "arXiv 2405.11157",
        "parameters": [
            {
                "name": "temperature",
                "default": 1.0,
                "range": f"{MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}",
                "meaning": "above 1 evens the shares out, below 1 sharpens them",
            },
            {
                "name": "top_k",
                "default": None,
                "range": "at least 1, or null",
                "meaning": "adapters that a token takes at most; null: all",
            },
        ],
    },
)


def arrow(fields: Mapping[str, Any], weighted: Iterable[tuple[str, float]]) -> Composition:
    """The routed composition of (digest, weight) pairs. Raises InvalidMerge, naming the field."""
    try:
        given = _Arrow.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidMerge(f"merge.{field}", first["input"], first["msg"]) from error
    try:
        return Composition.arrow(weighted, given.temperature, given.top_k)
    except InvalidMerge as error:
        field = "adapters" if error.field == "members" else f"merge.{error.field}"
        raise InvalidMerge(field, error.value, error.reason) from error
