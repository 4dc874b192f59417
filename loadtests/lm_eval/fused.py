"""A published adapter added to a copy of the base's weights, for transformers to load.

Knows the adapter file's format from its description, and shares no code with the server.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"


def fuse(base: Path, adapter: Path, to: Path) -> Path:
    """The checkpoint `base` with the element adapter's values added, written if not there yet."""
    if (to / WEIGHTS).is_file():
        return to
    shutil.copytree(base, to, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
    weights, deltas = load_file(base / WEIGHTS), load_file(adapter)
    for header in _headers(adapter):
        layer, weight = header["layer"], weights[f"{header['layer']}.weight"]
        assert header["kind"] == "element", f"{layer} is {header['kind']}"
        scale = np.frombuffer(bytes.fromhex(header["scale"]), dtype=">f4")[0]
        weight.reshape(-1)[deltas[f"{layer}.indices"]] += scale * deltas[f"{layer}.values"]
    save_file(weights, to / WEIGHTS, metadata={"format": "pt"})
    return to


def _headers(adapter: Path) -> list[dict[str, str]]:
    with safe_open(adapter, "np") as file:
        headers: list[dict[str, str]] = json.loads(file.metadata()["deltas"])
        return headers
