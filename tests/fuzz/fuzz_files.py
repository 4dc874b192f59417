"""Fuzzing of everything that reads an uploaded file: only AdapterRefused may come of any bytes.

By hand, with `pip install '.[fuzz]'`:

    PYTHONPATH=.:tests python tests/fuzz/fuzz_files.py tests/fuzz/corpus -max_total_time=300

What it finds goes into `corpus/`, which `test_fuzz_corpus.py` replays. `seeds` made the first ones.
"""

import gc
import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType

import torch
from safetensors.torch import save
from store_factories import BASE, LIMITS, MAKERS, QKV, adapter_of, random

from adapters_store import files
from adapters_store.effect import Parts, effect_of
from adapters_store.errors import AdapterRefused
from adapters_store.ingest import AdapterStore

PARTS: Parts = {
    "self_attn.q_proj": ("self_attn.qkv_proj", 0, 24),
    "self_attn.k_proj": ("self_attn.qkv_proj", 24, 8),
    "self_attn.v_proj": ("self_attn.qkv_proj", 32, 16),
}
INSTRUMENTED = ("adapters_store", "gzip", "json", "tarfile", "zipfile")  # all of torch takes hours
Read = Callable[[bytes], bool]


@contextmanager
def reader() -> Iterator[Read]:
    """Whether bytes are an adapter, as an upload would find; raises what it should not."""
    with tempfile.TemporaryDirectory() as directory:
        store = AdapterStore.open(Path(directory), BASE, PARTS, LIMITS)
        path = Path(directory) / "upload"

        def is_adapter(data: bytes) -> bool:
            path.write_bytes(data)
            try:
                adapter = store._incoming.read(path)
            except AdapterRefused:
                return False
            effect_of(adapter, PARTS)
            files.write(adapter, path)
            assert files.read(path).digest == adapter.digest, "what is taken can be read again"
            return True

        yield is_adapter
        store.close()


def seeds() -> dict[str, bytes]:
    """A small valid upload of every kind, by name."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "adapter"
        made = {}
        for kind, make in MAKERS.items():
            files.write(adapter_of(make(QKV, torch.float16, random(1))), path)
            made[f"{kind.replace(' ', '-')}.safetensors"] = path.read_bytes()
    return made | {
        f"{name}.{suffix}": pack(members)
        for name, members in _peft_directories().items()
        for suffix, pack in (("zip", _zipped), ("tar.gz", _tarred))
    }


def _peft_directories() -> dict[str, Mapping[str, bytes]]:
    prefix = "base_model.model.layers.0.self_attn"
    lora = {
        f"{prefix}.{name}.lora_{side}.weight": torch.ones(shape)
        for name, rows in (("q_proj", 24), ("v_proj", 16))
        for side, shape in (("A", (2, 16)), ("B", (rows, 2)))
    }
    places = torch.arange(128)
    shira = {
        f"{prefix}.qkv_proj.shira_weight": torch.ones(128),
        f"{prefix}.qkv_proj.shira_indices": torch.stack((places // 16, places % 16)).int(),
    }
    return {
        "lora": _members({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, lora),
        "shira": _members({"peft_type": "SHIRA", "r": 2, "mask_type": "random"}, shira),
    }


def _members(config: object, tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(tensors),
    }


def _zipped(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


def _tarred(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def main() -> None:
    """Run atheris with the arguments of the command line."""
    import atheris

    for function in gc.get_objects():
        if isinstance(function, FunctionType) and str(function.__module__).startswith(INSTRUMENTED):
            atheris.instrument_func(function)
    with reader() as is_adapter:
        atheris.Setup(sys.argv, is_adapter)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
