"""A trained adapter as a shipped file, with notes on what it is.

Knows the file format and the demo base; nothing of training.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.files import num_bytes, read, write
from adapters_store.tasks.table import named
from adapters_store.validation import Limits, check
from examples.expert_table import EXPERTS
from server.model.checkpoint import open_checkpoint
from server.model.demo_base import NAME
from server.model.identity import base_identity

MAX_BYTES = 1_500_000
LIMITS = Limits(max_file_bytes=MAX_BYTES, max_nnz=MAX_BYTES)


def ship(trained: Path, name: str, example: str, base: BaseIdentity, path: Path) -> SparseAdapter:
    """Write what was trained as `name` to `path`. `example` is a prompt to try it with."""
    adapter = read(trained)
    told = {**adapter.notes, **notes(name), "example": example}
    adapter = replace(adapter, base_name=base.name, notes=told)
    check(adapter, base, LIMITS)
    assert num_bytes(adapter) <= MAX_BYTES
    path.parent.mkdir(parents=True, exist_ok=True)
    write(adapter, path)
    return adapter


def shipped(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def identity(base: Path) -> BaseIdentity:
    """The identity of the demo base in the folder `base`."""
    return base_identity(NAME, open_checkpoint(str(base)), base.parent / "base-identity.json")


def notes(name: str) -> Mapping[str, str]:
    """What travels with the file beside its lineage: the prompts it wants, and whose data."""
    (task,) = named([EXPERTS[name].task])
    packages = [f"{package.name} {package.version}" for package in task.packages]
    return {
        "task": EXPERTS[name].title,
        "prompt": " / ".join(task.templates),
        "data": ", ".join(packages),
        "data_licence": task.licence,
        "licence": "Apache-2.0",
        "trainer": "python -m examples.experts",
    }
