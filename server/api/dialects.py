"""The ways in which other servers' clients name adapters, as our own: members and a merge.

LoRAX's `adapter_id` and `merged_adapters`, llama.cpp's `lora`, SGLang's `model: "base:adapter"`.
Knows neither what a reference stands for nor which merges are served.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.api.members import AdapterWeight, LoraScale, MergedAdapters
from server.api.schemas import GenerationBody
from server.errors import BadRequest, ModelNotFound, shown

FIELDS = ("adapters", "adapter_id", "merged_adapters", "lora")  # each says it all
SOURCES = ("registry", "local")  # of LoRAX's; both are what is stored here
LINEAR = {"method": "linear"}
SIGNS = {"total": "sum", "frequency": "count"}  # LoRAX's words and ours

Positions = Callable[[], Sequence[str]]  # what each position of `GET /lora-adapters` names


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, whoever's fields it uses. No members: the base."""

    members: tuple[tuple[str, float], ...] = ()  # (reference, weight)
    param: str = "model"  # the field that names the member {index}
    merge: Mapping[str, Any] | None = None  # method and parameters
    members_field: str = "adapters"  # what holds the members
    merge_field: str = "merge"  # what holds the method and its parameters


def translate(body: GenerationBody, base_name: str, positions: Positions) -> Asked:
    """Raises BadRequest, which names the field, where fields contradict each other.

    `positions` is called for llama.cpp's field only.
    """
    given = [field for field in FIELDS if getattr(body, field) is not None]
    if len(given) > 1:
        raise BadRequest(f"{given[1]} says again what '{given[0]}' says; give one", given[1])
    if body.merge is not None and given != ["adapters"]:
        raise BadRequest("merge needs the field 'adapters'", "merge")
    _check_source(body)
    named = adapter_of(body.model, base_name)
    if not given:
        return Asked() if named is None else Asked(((named, 1.0),))
    if named is not None:
        raise BadRequest(
            f"name the base in 'model' when '{given[0]}' is given, or neither", "model"
        )
    if body.adapters is not None:
        return _own(body.adapters, body.merge)
    if body.merged_adapters is not None:
        return _merged(body.merged_adapters)
    if body.lora is not None:
        return _scaled(body.lora, positions)
    assert body.adapter_id is not None
    is_base = body.adapter_id in ("", base_name)
    return Asked() if is_base else Asked(((body.adapter_id, 1.0),), "adapter_id")


def adapter_of(model: str | None, base_name: str) -> str | None:
    """What `model` names other than the base."""
    if model is None or model == base_name:
        return None
    return model.removeprefix(f"{base_name}:")


def _check_source(body: GenerationBody) -> None:
    source = body.adapter_source
    if source is None:
        return
    if body.adapter_id is None and body.merged_adapters is None:
        raise BadRequest("adapter_source needs 'adapter_id' or 'merged_adapters'", "adapter_source")
    if source not in SOURCES:
        raise BadRequest(
            f"adapter_source: {shown(source)} is none of {', '.join(SOURCES)}, which are what is "
            "stored here; POST /v1/load_lora_adapter brings in what is elsewhere",
            "adapter_source",
        )


def _own(adapters: Sequence[AdapterWeight], merge: Mapping[str, Any] | None) -> Asked:
    members = tuple((member.id, member.weight) for member in adapters)
    return Asked(members, "adapters.{index}.id", merge)


def _merged(merged: MergedAdapters) -> Asked:
    weights = [1.0] * len(merged.ids) if merged.weights is None else merged.weights
    if len(weights) != len(merged.ids):
        raise BadRequest(
            f"merged_adapters.weights: {len(weights)} for {len(merged.ids)} ids",
            "merged_adapters.weights",
        )
    return Asked(
        tuple(zip(merged.ids, weights, strict=True)),
        "merged_adapters.ids.{index}",
        _merge_of(merged),
        "merged_adapters.ids",
        "merged_adapters",
    )


def _merge_of(merged: MergedAdapters) -> Mapping[str, Any]:
    method = merged.merge_strategy
    if method == "linear":
        return LINEAR
    if merged.density is None:
        raise BadRequest(f"merged_adapters.density: {method} needs it", "merged_adapters.density")
    merge: dict[str, Any] = {"method": method, "density": merged.density}
    return merge | ({"sign": SIGNS[merged.majority_sign_method]} if "ties" in method else {})


def _scaled(scales: Sequence[LoraScale], positions: Positions) -> Asked:
    names = positions() if scales else ()
    members: dict[str, float] = {}
    for index, entry in enumerate(scales):
        param = f"lora.{index}.id"
        if entry.id >= len(names):
            raise ModelNotFound(f"lora {entry.id}", param)
        if names[entry.id] in members:
            raise BadRequest(f"{param}: {entry.id} is there twice", param)
        members[names[entry.id]] = entry.scale
    return Asked(tuple(members.items()), "lora.{index}.id", LINEAR, "lora")
