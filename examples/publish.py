"""A trained PEFT directory as a shipped file, `adapters/<name>.safetensors`.

Knows the importer and the file format; nothing of training.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters_store.adapter import BaseIdentity
from adapters_store.canonical import canonical_json
from adapters_store.files import num_bytes, write
from adapters_store.importers.peft import read_peft
from examples.tasks import TASKS
from server.model.checkpoint import open_checkpoint
from server.model.demo_base import NAME
from server.model.identity import base_identity

ADAPTERS = Path(__file__).parent / "adapters"
MAX_BYTES = 1_500_000


def publish(name: str, peft_folder: Path, base: Path, training: Mapping[str, Any]) -> Path:
    """Convert the adapter of task `name`, with notes that say what it is; the file's path."""
    checkpoint = open_checkpoint(str(base))
    adapter = read_peft(peft_folder, identity(base), checkpoint.config.split_parts())
    adapter = replace(adapter, notes=notes(name, training))
    assert num_bytes(adapter) <= MAX_BYTES
    path = ADAPTERS / f"{name}.safetensors"
    write(adapter, path)
    return path


def identity(base: Path) -> BaseIdentity:
    """The identity of the demo base in the folder `base`."""
    return base_identity(NAME, open_checkpoint(str(base)), base.parent / "base-identity.json")


def notes(name: str, training: Mapping[str, Any]) -> dict[str, str]:
    """What travels with the file: the task, the prompts it wants, whose data, how trained."""
    task = TASKS[name]
    return {
        "task": task.title,
        "prompt": task.template,
        "example": _example(name),
        "data": task.source,
        "data_licence": task.licence,
        "licence": "Apache-2.0",
        "training": canonical_json(dict(training)).decode(),
        "trainer": "PEFT SHiRA on qkv_proj, SNIP mask (examples/train_shira.py)",
    }


def _example(name: str) -> str:
    """A prompt to try the adapter with."""
    prompts = json.loads((ADAPTERS.parent / "prompts.json").read_text(encoding="utf-8"))
    prompt: str = prompts[name]["prompt"]
    return prompt
