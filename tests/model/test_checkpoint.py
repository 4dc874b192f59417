"""A checkpoint is opened with its own tokenizer and defaults, or refused helpfully."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from server.model import checkpoint as checkpoint_module
from server.model.checkpoint import open_checkpoint
from server.model.errors import CheckpointNotFound, CheckpointUnsupported

Checkpoints = Callable[[str], Path]


@pytest.fixture
def directory(tiny_checkpoint: Checkpoints, tmp_path: Path) -> Path:
    """A checkpoint of one's own."""
    copytree(tiny_checkpoint("phi3-mini"), tmp_path / "own")
    return tmp_path / "own"


def rewrite(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_bytes()) if file.exists() else {}
    file.write_text(json.dumps({**content, **changes}))


def test_tokenizer_and_chat_template_are_the_checkpoints_own(directory: Path) -> None:
    tokenizer = open_checkpoint(str(directory)).tokenizer
    text = "Écoute : 日本 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    messages = [{"role": "user", "content": "hello"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>\nhello<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ([5, 6], [7], {5, 6}),
        (5, [7], {5}),
        (None, [7, 8], {7, 8}),
        (None, 7, {7}),
        (None, None, {0}),
    ],
    ids=["list", "int", "config list", "config int", "tokenizer"],
)
def test_end_tokens_come_from_the_first_source_that_names_any(
    directory: Path, generation: Any, config: Any, expected: set[int]
) -> None:
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    rewrite(directory / "config.json", eos_token_id=config)
    assert open_checkpoint(str(directory)).eos_token_ids == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"do_sample": True}, {}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        ({"repetition_penalty": 1.1, "top_p": 0.9}, {"repetition_penalty": 1.1, "top_p": 0.9}),
    ],
    ids=["no file", "empty", "nothing said", "sampled", "penalty"],
)
def test_sampling_defaults_are_those_that_the_checkpoint_sets(
    directory: Path, generation: dict[str, Any] | None, expected: dict[str, float]
) -> None:
    (directory / "generation_config.json").unlink()
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    assert open_checkpoint(str(directory)).sampling_defaults == expected


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/model", "./model", "a/b/c"])
def test_missing_directory_is_not_found_and_the_message_says_what_to_set(name: str) -> None:
    with pytest.raises(CheckpointNotFound, match="INTARSIA_BASE_MODEL") as missing:
        open_checkpoint(name)
    assert missing.value.name == name


@pytest.mark.parametrize("failure", [OSError("no route"), ValueError("bad name")])
def test_unreachable_hub_is_not_found(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(checkpoint_module, "snapshot_download", unreachable)
    with pytest.raises(CheckpointNotFound, match=str(failure)):
        open_checkpoint("somebody/some-model")


def test_hub_name_is_downloaded_without_pickles(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    asked: list[str] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(directory)

    monkeypatch.setattr(checkpoint_module, "snapshot_download", download)
    opened = open_checkpoint("somebody/some-model")
    assert (opened.name, opened.directory) == ("somebody/some-model", directory)
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked if "." in pattern)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba9"}, "mamba9"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}}, "dynamic"),
    ],
)
def test_configuration_that_transformers_refuses_is_unsupported(
    directory: Path, changes: dict[str, Any], named: str
) -> None:
    rewrite(directory / "config.json", **changes)
    with pytest.raises(CheckpointUnsupported, match=named):
        open_checkpoint(str(directory))


def test_checkpoint_without_tokenizer_is_unsupported(directory: Path) -> None:
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CheckpointUnsupported, match="tokenizer"):
        open_checkpoint(str(directory))


def test_directory_without_configuration_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"config\.json"):
        open_checkpoint(str(tmp_path))
