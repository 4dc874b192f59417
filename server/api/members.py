"""How requests write adapters and their weights: our own fields, and those of other servers.

Forms only; what those of others mean is in `dialects.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_WEIGHT = 1e6
MAX_MEMBERS = 64

Weight = Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]


class AdapterWeight(BaseModel):
    """One member of a composition."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: str
    weight: Weight = 1.0


class MergedAdapters(BaseModel):
    """LoRAX's `merged_adapters`. Without weights all are 1; linear takes no notice of a density."""

    model_config = ConfigDict(strict=True, extra="forbid")

    ids: list[str] = Field(min_length=1, max_length=MAX_MEMBERS)
    weights: list[Weight] | None = None
    merge_strategy: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: float | None = Field(None, ge=0, le=1)
    majority_sign_method: Literal["total", "frequency"] = "total"


class LoraScale(BaseModel):
    """An entry of llama.cpp's `lora`: a position in `GET /lora-adapters`, and a weight."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: int = Field(ge=0)
    scale: Weight
