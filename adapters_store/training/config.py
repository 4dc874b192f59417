"""Everything that decides a training run, as one model: flags, files and Python calls make it.

Knows no tensors, so that `intarsia train --help` is answered at once.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapters_store.training.failures import ConfigRefused

Selected = Literal["mcs", "cs", "gradient_magnitude", "weight_magnitude", "grow_and_drop"]
Fixed = Literal["struct", "random", "wm", "grad", "snip"]
Baseline = Literal["lora", "full_targets", "full_model", "mask_of_start"]

SELECTED: tuple[str, ...] = Selected.__args__  # type: ignore[attr-defined]
FIXED: tuple[str, ...] = Fixed.__args__  # type: ignore[attr-defined]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class TrainConfig(BaseModel):
    """One training run. Defaults are those of arXiv 2507.07140 and its code, except where said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path = Field(description="checkpoint to train on; it stays as it is")
    data: tuple[Path, ...] = Field(
        min_length=1,
        description="rows {prompt, target}: JSON lines, or a directory that HF datasets saved; "
        "several are mixed (multitask)",
    )
    validation: tuple[Path, ...] = Field((), description="rows to watch, in the same forms")
    validation_rows: Positive = Field(1000, description="most rows to watch")
    output: Path = Field(description="directory for the adapter, checkpoints, logs and report")
    name: str | None = Field(None, description="name to publish under, and the adapter's task")
    publish: str | None = Field(None, description="URL of a server to upload the adapter to")

    method: Selected | Fixed | Baseline = Field(
        "mcs",
        description="how entries are chosen: Algorithm 1 by a score of the delta (mcs to "
        "grow_and_drop), a fixed SHiRA mask (struct to snip), or a baseline that chooses none",
    )
    targets: str = Field(r".*qkv_proj", description="regular expression of whole layer names")
    form: str = Field(
        "element",
        pattern=r"^(element|[1-9]\d*x[1-9]\d*)$",
        description="'element', or the tile that is chosen as one, like 16x16 or 1x16",
    )
    keep_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of the targets' entries that are trained in the end"
    )
    scope: Literal["layer", "model", "row", "layer_drop"] = Field(
        "layer",
        description="where the top entries are taken: in each layer, in all together, as many in "
        "every row, or in each layer that layer drop leaves",
    )
    one_shot: bool = Field(False, description="choose once, after the selecting epochs")
    reselect_every: Positive = Field(
        12, description="micro-batches between selections (the paper's 100, of one row each)"
    )
    selecting_epochs: Annotated[float, Field(gt=0)] = Field(
        1.0, description="epochs of dense deltas, after which the mask is fixed"
    )
    disjoint_task: Positive | None = Field(
        None, description="wm: masks of different numbers share no entry, for adapters to be fused"
    )
    calibration_batches: Positive = Field(4, description="micro-batches that grad and snip look at")
    lora_rank: Positive | None = Field(
        None, description="lora: rank; without, the one of as many parameters as keep_ratio"
    )
    start_from: Path | None = Field(
        None, description="adapter to train on: its mask alone (mask_of_start), or full_targets"
    )

    epochs: Annotated[float, Field(gt=0)] = Field(5.0, description="passes through the data")
    max_steps: Positive | None = Field(None, description="optimizer steps, instead of epochs")
    batch: Positive = Field(8, description="rows of a micro-batch (paper: 1)")
    accumulation: Positive = Field(2, description="micro-batches of a step (paper: 16)")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="highest rate (paper: 1e-4)")
    warmup: Share = Field(0.06, description="share of the steps in which the rate rises")
    clip: Annotated[float, Field(ge=0)] = Field(0.1, description="norm of gradients; 0: any")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="of AdamW")
    best_by: Literal["last", "loss", "rouge_l"] = Field(
        "last", description="which state is kept: the last, or the best on the validation rows"
    )
    patience: Positive | None = Field(
        None, description="best_by: stop after so many evaluations without a better one"
    )
    evaluate_every: Positive = Field(100, description="steps between evaluations")
    save_every: Positive = Field(100, description="steps between checkpoints")

    prompt: Literal["raw", "chat"] = Field("chat", description="prompts as they are, or templated")
    max_prompt_tokens: Positive = Field(2048, description="longer prompts lose their beginning")
    max_answer_tokens: Positive = Field(64, description="longer answers lose their end")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen base")
    seed: Annotated[int, Field(ge=0)] = Field(42, description="of order, masks and starts")

    @property
    def block(self) -> tuple[int, int] | None:
        """Rows and columns of a tile, None for single entries."""
        if self.form == "element":
            return None
        rows, columns = self.form.split("x")
        return int(rows), int(columns)

    @property
    def is_selecting(self) -> bool:
        """Whether a first phase trains dense deltas and selects."""
        return self.method in SELECTED

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        fields = type(self).model_fields
        reasons = [
            reason
            for name, reason in self._misfits()
            if getattr(self, name) != fields[name].default
        ]
        if self.method == "mask_of_start" and self.start_from is None:
            reasons.append("mask_of_start wants start_from")
        if self.best_by != "last" and not self.validation:
            reasons.append(f"best_by {self.best_by} wants validation rows")
        if reasons:
            raise ValueError("; ".join(reasons))
        return self

    def _misfits(self) -> list[tuple[str, str]]:
        """Fields that would decide nothing where they are set, with the reason to say so."""
        selects = self.is_selecting or self.method in FIXED
        wanted = {
            "form": (selects, "a method that selects"),
            "scope": (selects, "a method that selects"),
            "one_shot": (self.is_selecting, "a score of Algorithm 1"),
            "reselect_every": (self.is_selecting, "a score of Algorithm 1"),
            "selecting_epochs": (self.is_selecting, "a score of Algorithm 1"),
            "disjoint_task": (self.method == "wm", "method wm"),
            "calibration_batches": (self.method in ("grad", "snip"), "method grad or snip"),
            "lora_rank": (self.method == "lora", "method lora"),
            "start_from": (
                self.method in ("mask_of_start", "full_targets"),
                "method mask_of_start or full_targets",
            ),
            "targets": (self.method not in ("full_model", "mask_of_start"), "other methods"),
            "patience": (self.best_by != "last", "best_by loss or rouge_l"),
            "publish": (self.name is not None, "a name"),
        }
        return [
            (field, f"{field} goes with {what}")
            for field, (fits, what) in wanted.items()
            if not fits
        ]


def build(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of these fields; ConfigRefused with every reason found."""
    try:
        config = TrainConfig.model_validate(dict(values))
        re.compile(config.targets)
    except ValidationError as error:
        raise ConfigRefused([_told(problem) for problem in error.errors()]) from error
    except re.error as error:
        raise ConfigRefused([f"targets: no regular expression: {error}"]) from error
    return config


def _told(problem: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def read_fields(path: Path) -> dict[str, Any]:
    """The fields in a TOML or JSON file; its relative paths are relative to where it lies."""
    try:
        text = path.read_text(encoding="utf-8")
        fields = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigRefused([f"{path}: {error}"]) from error
    if not isinstance(fields, dict):
        raise ConfigRefused([f"{path}: expected an object of fields"])
    return {key: _beside(path, key, value) for key, value in fields.items()}


def _beside(path: Path, key: str, value: Any) -> Any:
    if key in ("data", "validation") and isinstance(value, list):
        return [path.parent / item for item in value]
    if key in ("base", "output", "start_from") and isinstance(value, str):
        return path.parent / value
    return value
