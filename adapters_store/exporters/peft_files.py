"""The two files of a PEFT directory, as PEFT 0.21 reads them. Knows no kind of adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.importers.archive import CONFIG, TENSORS
from adapters_store.importers.peft_source import PREFIX


def write_directory(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write both files; `tensors` by module and suffix. The directory is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, directory / TENSORS, {"format": "pt", **metadata})
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def common_config(adapter: SparseAdapter, peft_type: str) -> dict[str, Any]:
    """The settings that all kinds share. Targets are whole names: no other layer matches."""
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name,
        "inference_mode": True,
        "target_modules": list(adapter.layers),
    }


def refuse_other_kinds(adapter: SparseAdapter, what: str, kinds: tuple[str, ...]) -> None:
    """AdapterRefused, naming every delta that `what` cannot hold."""
    others = [delta for delta in adapter.deltas if delta.kind not in kinds]
    if others:
        known = " and ".join(kinds)
        reasons = [f"{d.layer}: {what} holds {known}, not a delta of kind {d.kind}" for d in others]
        raise AdapterRefused(reasons)
