"""Any number of small adapters with different content, as uploads of PEFT directories.

LoRA adapters, of rank 1 unless told, on the output projection of the first layer; one in a hundred
is tagged `rare`.
"""

import io
import json
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

LAYER = "model.layers.0.self_attn.o_proj"
UPLOADERS = 4


def name_of(number: int) -> str:
    """Names in the order of numbers."""
    return f"adapter-{number:05}"


def upload_all(http: httpx.Client, numbers: Iterable[int], hidden_size: int, rank: int = 1) -> None:
    """Publish adapters over HTTP, a few at a time; a bar on stderr shows how far it is."""
    wanted = list(numbers)
    with ThreadPoolExecutor(UPLOADERS) as pool:
        answers = pool.map(partial(_upload, http, hidden_size, rank), wanted)
        for answer in tqdm(answers, "uploads", len(wanted), unit=" adapters"):
            answer.raise_for_status()


def _upload(http: httpx.Client, hidden_size: int, rank: int, number: int) -> httpx.Response:
    metadata = {"task": "benchmark", "tags": ["rare"] if number % 100 == 0 else []}
    form = {"name": name_of(number), "metadata": json.dumps(metadata)}
    file = ("adapter.zip", _peft_zip(number, hidden_size, rank))
    return http.post("/v1/adapters", data=form, files={"file": file})


def _peft_zip(seed: int, hidden_size: int, rank: int) -> bytes:
    source = np.random.default_rng(seed)
    stem = f"base_model.model.{LAYER}"
    tensors = {
        f"{stem}.lora_A.weight": source.standard_normal((rank, hidden_size), dtype=np.float32),
        f"{stem}.lora_B.weight": source.standard_normal((hidden_size, rank), dtype=np.float32)
        * 0.01,
    }
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["o_proj"]}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("adapter_config.json", json.dumps(config))
        archive.writestr("adapter_model.safetensors", save(tensors))
    return packed.getvalue()
