"""An adapter as a PEFT LoRA directory: rank and alpha by pattern where layers differ."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters_store.adapter import LowRankDelta, SparseAdapter
from adapters_store.canonical import round_to_fp32
from adapters_store.exporters.peft_files import (
    common_config,
    refuse_other_kinds,
    write_directory,
)
from adapters_store.importers.peft_lora import A, B


def write_lora(adapter: SparseAdapter, directory: Path) -> None:
    """Write the directory; AdapterRefused names what LoRA cannot hold."""
    refuse_other_kinds(adapter, "LoRA", (LowRankDelta.kind,))
    deltas = [delta for delta in adapter.deltas if isinstance(delta, LowRankDelta)]
    tensors: dict[str, Tensor] = {}
    for delta in deltas:
        tensors[f"{delta.layer}.{A}"] = delta.a
        tensors[f"{delta.layer}.{B}"] = delta.b if delta.scale > 0 else -delta.b
    ranks, alphas = {d.layer: d.a.shape[0] for d in deltas}, {d.layer: _alpha(d) for d in deltas}
    config = {
        **common_config(adapter, "LORA"),
        **_setting("r", "rank_pattern", ranks),
        **_setting("lora_alpha", "alpha_pattern", alphas),
    }
    write_directory(directory, config, tensors, {})


def _alpha(delta: LowRankDelta) -> float:
    """The alpha whose quotient by the rank is the scale, exactly; its sign goes into B."""
    alpha = abs(round_to_fp32(delta.scale)) * delta.a.shape[0]
    return int(alpha) if alpha.is_integer() else alpha


def _setting(key: str, pattern_key: str, by_layer: Mapping[str, Any]) -> dict[str, Any]:
    """The most common value for all, and a pattern for each layer that differs."""
    common = Counter(sorted(by_layer.values())).most_common(1)[0][0]
    others = {re.escape(name): value for name, value in by_layer.items() if value != common}
    return {key: common, pattern_key: others}
