"""Everything that decides a search, as one model: flags, TOML files and Python calls make it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters_store.evaluation.errors import UnknownMetric
from adapters_store.evaluation.metrics import metrics_of
from adapters_store.merging.table import DEFAULT_METHOD
from merge_search.dimensions import Range
from merge_search.errors import SearchRefused
from merge_search.space import Space
from merge_search.weights import Weights

MAX_BATCH = 256  # subjects of an evaluation
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RangeOf(Part):
    """Numbers between two ends; `log` where factors matter."""

    low: Finite
    high: Finite
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is true")
        return self


class WeightsOf(Part):
    """Each from `low` to `high`; with `sum`, each at least `low` and so much together."""

    low: Finite = 0.0
    high: Finite = 1.5
    sum: Finite | None = None

    @model_validator(mode="after")
    def _has_one_upper_end(self) -> Self:
        if self.sum is not None and "high" in self.model_fields_set:
            raise ValueError("with sum there is no high")
        return self


Spec = Finite | str | tuple[Finite | str, ...] | RangeOf


class SearchConfig(Part):
    """One search. `data` and `test` name files of JSON lines, kept data sets, or TASK[:SPLIT]."""

    candidates: tuple[str, ...] = Field(min_length=1, max_length=64)
    methods: tuple[str, ...] = Field((DEFAULT_METHOD,), min_length=1)
    weights: WeightsOf = WeightsOf()
    parameters: dict[str, Spec] = {}
    data: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = ()
    metric: str = "rouge_l"
    trials: Positive = 64
    batch: int = Field(8, ge=1, le=MAX_BATCH)
    minutes: float | None = Field(None, gt=0)
    grid: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0, le=2**63 - 1)
    merge_seed: int = Field(0, ge=0, le=2**63 - 1)
    top: Positive = 3
    prompt_mode: Literal["raw", "chat"] = "raw"
    limit: Positive | None = None
    test_limit: Positive | None = None
    generation: dict[str, Any] = {}
    priority: int | None = Field(None, ge=0)

    @property
    def higher_is_better(self) -> bool:
        """Raises SearchRefused for an unknown metric."""
        try:
            (metric,) = metrics_of([self.metric])
        except UnknownMetric as error:
            raise SearchRefused("metric", str(error)) from error
        return metric.higher_is_better

    def space(self, candidates: tuple[str, ...]) -> Space:
        """The space over these references. Raises SearchRefused."""
        asked = {
            name: Range(each.low, each.high, each.log) if isinstance(each, RangeOf) else each
            for name, each in self.parameters.items()
        }
        weights = Weights(self.weights.low, self.weights.high, self.weights.sum)
        return Space.build(candidates, self.methods, weights, asked, self.merge_seed)


def read_config(path: Path | None, flags: Mapping[str, Any]) -> SearchConfig:
    """The search that a TOML file and flags ask for; flags come first. Raises SearchRefused."""
    try:
        written = tomllib.loads(path.read_text()) if path else {}
        return SearchConfig.model_validate({**written, **flags})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SearchRefused(str(path), f"is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "search"
        raise SearchRefused(field, first["msg"]) from error
