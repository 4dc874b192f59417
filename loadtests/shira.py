"""Synthetic element adapters of a base's QKV layers, as uploads of PEFT SHiRA directories."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save


def shira_zip(seed: int, config: Mapping[str, Any], keep_ratio: float) -> tuple[str, bytes]:
    """An upload that changes `keep_ratio` of every QKV layer, at random places, by small values."""
    source = np.random.default_rng(seed)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    key_rows = config["num_key_value_heads"] * config.get("head_dim", hidden // heads)
    rows = heads * (hidden // heads) + 2 * key_rows
    rank = round(keep_ratio * rows * hidden / (rows + hidden))  # PEFT has r * (in + out) entries
    tensors: dict[str, Any] = {}
    for layer in range(config["num_hidden_layers"]):
        stem = f"base_model.model.model.layers.{layer}.self_attn.qkv_proj"
        count = rank * (rows + hidden)
        flat = np.sort(source.choice(rows * hidden, count, replace=False))
        places = np.stack(np.unravel_index(flat, (rows, hidden))).astype(np.int32)
        values = source.standard_normal(count, dtype=np.float32) * 0.01
        tensors |= {f"{stem}.shira_weight": values, f"{stem}.shira_indices": places}
    peft = {"peft_type": "SHIRA", "r": rank, "target_modules": ["qkv_proj"], "mask_type": "random"}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("adapter_config.json", json.dumps(peft))
        archive.writestr("adapter_model.safetensors", save(tensors))
    return "adapter.zip", packed.getvalue()
