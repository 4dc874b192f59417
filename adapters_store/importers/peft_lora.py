"""PEFT's LoRA: two factors per module, as in PEFT 0.21, with its own rules for rank and scale.

Anything that changes what the factors mean (DoRA, biases, a base changed at the start, ...) is
refused by name.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adapters_store.adapter import LowRankDelta, WeightDelta
from adapters_store.canonical import round_to_fp32
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import (
    Layout,
    PeftSource,
    Place,
    check_places,
    refused_setting,
)

A, B = "lora_A.weight", "lora_B.weight"
KNOWN_SETTINGS = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",  # a module's name, used only with a megatron_config
    "qalora_group_size",  # used only with use_qalora
    "rank_pattern",
    "use_rslora",
)
MAX_PATTERN_STEPS = 2**20
MAX_PATTERN_STEPS_OF_ALL = 2**26


@dataclass(frozen=True, slots=True)
class _Factors:
    place: Place
    scale: float
    a: Tensor  # [r, in]
    b: Tensor  # [rows of the place, r]


def read_lora(source: PeftSource, layout: Layout) -> list[WeightDelta]:
    """One low rank delta per base layer; AdapterRefused with every reason found."""
    reasons = [*source.unknown_settings(KNOWN_SETTINGS), *_setting_reasons(source.config)]
    modules = source.modules((A, B), reasons)
    reasons += _pattern_reasons(source.config, len(modules))
    if reasons:
        raise AdapterRefused(reasons)
    factors: dict[str, list[_Factors]] = {}
    for module, tensors in modules.items():
        try:
            found = _factors(module, tensors, source.config, layout)
            factors.setdefault(found.place.layer, []).append(found)
        except AdapterRefused as error:
            reasons += [f"{module}: {reason}" for reason in error.reasons]
    if reasons:
        raise AdapterRefused(reasons)
    check_places(part.place for parts in factors.values() for part in parts)
    return [_delta(parts) for parts in factors.values()]


def _setting_reasons(config: Mapping[str, Any]) -> Iterable[str]:
    if config.get("bias", "none") != "none":
        yield refused_setting("bias", config["bias"])
    # Other starts (PiSSA, OLoRA, CorDA, LoftQ, EVA, ...) change the base or the scale.
    start = config.get("init_lora_weights", True)
    if not (isinstance(start, bool) or start == "gaussian"):
        yield refused_setting("init_lora_weights", start)
    if not isinstance(config.get("use_rslora", False), bool):
        yield refused_setting("use_rslora", config["use_rslora"])
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        if not _is_positive(config.get(key)):
            yield refused_setting(key, config.get(key))
        by_name = config.get(pattern) or {}
        if not isinstance(by_name, dict) or not all(map(_is_positive, by_name.values())):
            yield refused_setting(pattern, by_name)


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < 2**31


def _pattern_reasons(config: Mapping[str, Any], num_modules: int) -> Iterable[str]:
    """Patterns are regular expressions from outside: those that may run for long are refused."""
    total = 0.0
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        for pattern in patterns if isinstance(patterns, dict) else ():
            steps = _most_steps(pattern)
            total += steps * num_modules
            if steps > MAX_PATTERN_STEPS or total > MAX_PATTERN_STEPS_OF_ALL:
                yield refused_setting(key, pattern)


def _most_steps(pattern: str) -> float:
    """A bound on the ways to match `pattern` in a module's name of at most 64 characters."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return math.inf
    if re.search(r"\)[*+?{]", pattern):  # repeated groups can be exponential
        return math.inf
    repeats = len(re.findall(r"(?<!\()[*+?{]", pattern))
    alternatives, groups = pattern.count("|") + 1, pattern.count("(") + 1
    return float(64 ** min(repeats, 16)) * float(alternatives ** min(groups, 64))


def _matching(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the name, at a dot or the start."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _factors(
    module: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], layout: Layout
) -> _Factors:
    place = layout.place(module)
    if place is None:
        raise AdapterRefused(["is no linear layer of the base"])
    missing = [f"{name}: missing" for name in (A, B) if name not in tensors]
    if missing:
        raise AdapterRefused(missing)
    rank = _matching(config.get("rank_pattern"), module, config["r"])
    expected = {A: [rank, place.shape[1]], B: [place.num_rows, rank]}
    wrong = [
        f"{name}: shape {list(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if list(tensors[name].shape) != shape
    ]
    if wrong:
        raise AdapterRefused(wrong)
    alpha = _matching(config.get("alpha_pattern"), module, config["lora_alpha"])
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return _Factors(place, round_to_fp32(alpha / divisor), tensors[A], tensors[B])


def _delta(parts: list[_Factors]) -> LowRankDelta:
    """The parts of one layer as one product: A's stacked, each B in its own rows and columns.

    Parts of one scale keep it. Else each part's scale goes into its B, in fp32.
    """
    parts = sorted(parts, key=lambda part: part.place.first_row)
    place, scale = parts[0].place, parts[0].scale
    if any(part.scale != scale for part in parts):
        parts = [_scaled(part) for part in parts]
        scale = 1.0
    return LowRankDelta(
        layer=place.layer,
        shape=place.shape,
        scale=scale,
        a=torch.cat([part.a for part in parts]),
        b=_block_placed(parts),
    )


def _scaled(part: _Factors) -> _Factors:
    return replace(part, scale=1.0, b=part.b.float() * part.scale)


def _block_placed(parts: list[_Factors]) -> Tensor:
    """`[out, sum of ranks]` with each part's B where its rows meet its columns, zero elsewhere."""
    columns = []
    for part in parts:
        place = part.place
        after = place.shape[0] - place.last_row
        columns.append(torch.nn.functional.pad(part.b, (0, 0, place.first_row, after)))
    return torch.cat(columns, dim=1)
