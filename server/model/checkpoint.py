"""A base checkpoint as transformers reads it: configuration, tokenizer, generation defaults.

Resolves a path or a model hub name to a directory. Reads no weights and runs no code that comes
with a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.errors as hub_errors
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from server.model.config import ModelConfig, from_transformers
from server.model.errors import CheckpointNotFound, CheckpointUnsupported

HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
# The last is the base error of the HTTP client that the hub's library uses: it lets some through.
HUB_FAILURES = (OSError, ValueError, hub_errors.HTTPError)
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything of a base model but its weights."""

    name: str  # as it was asked for
    directory: Path
    config: ModelConfig
    tokenizer: PreTrainedTokenizerFast
    eos_token_ids: frozenset[int]
    sampling_defaults: Mapping[str, float | int]  # those that the checkpoint itself sets


def open_checkpoint(name_or_path: str) -> Checkpoint:
    """The checkpoint in a directory or of a hub name.

    Raises CheckpointNotFound and CheckpointUnsupported.
    """
    directory = _local_directory(name_or_path)
    config = _read_config(name_or_path, directory)
    tokenizer = _read_tokenizer(name_or_path, directory)
    generation = _read_generation(directory)
    return Checkpoint(
        name=name_or_path,
        directory=directory,
        config=from_transformers(config),
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(generation, config, tokenizer),
        sampling_defaults=_sampling_defaults(generation),
    )


def _local_directory(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name_or_path.count("/") != 1 or name_or_path.startswith((".", "~")):
        raise CheckpointNotFound(name_or_path, f"there is no directory {path}")
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=list(HUB_FILES)))
    except HUB_FAILURES as error:
        detail = f"there is no directory {path}, and the model hub gives no such model ({error})"
        raise CheckpointNotFound(name_or_path, detail) from error


def _read_config(name: str, directory: Path) -> PretrainedConfig:
    if not (directory / "config.json").is_file():
        raise CheckpointNotFound(name, f"{directory} holds no config.json")
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError, hub_errors.StrictDataclassError) as error:
        raise CheckpointUnsupported(name, "config.json", str(error)) from error


def _read_tokenizer(name: str, directory: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointUnsupported(name, "tokenizer", str(error)) from error
    if not tokenizer.is_fast:
        raise CheckpointUnsupported(name, "tokenizer", type(tokenizer).__name__)
    return tokenizer


def _read_generation(directory: Path) -> GenerationConfig:
    if not (directory / "generation_config.json").is_file():
        return GenerationConfig()
    return GenerationConfig.from_pretrained(directory)


def _eos_token_ids(
    generation: GenerationConfig, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> frozenset[int]:
    """End tokens by the first of the three that names any."""
    for source in (generation, config, tokenizer):
        if (ids := source.eos_token_id) is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()


def _sampling_defaults(generation: GenerationConfig) -> dict[str, float | int]:
    values = {name: getattr(generation, name) for name in SAMPLING_DEFAULTS}
    return {name: value for name, value in values.items() if value is not None}
