"""Rows of the base as its files hold them."""

from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_tokenizer
from transformers import AutoModelForCausalLM, Phi3Config

from server.model.checkpoint import open_checkpoint
from server.model.errors import CheckpointDamaged
from server.model.stored_rows import StoredRows
from server.model.tensor_files import open_tensor_files

COUNTS = Path("/proc/self/io")
LAYER = "model.layers.0.mlp.gate_up_proj"
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose gate_up_proj has 8 MiB."""
    config = Phi3Config(
        hidden_size=512,
        intermediate_size=4096,
        num_attention_heads=8,
        num_hidden_layers=1,
        pad_token_id=0,
        vocab_size=384,
    )
    path = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    make_tiny_tokenizer().save_pretrained(path)
    return path


def bytes_read() -> int:
    return int(COUNTS.read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(not COUNTS.exists(), reason="this system does not count what is read")
def test_a_few_rows_are_read_without_the_rest_of_their_tensor(directory: Path) -> None:
    rows = StoredRows(open_checkpoint(str(directory)))
    before = bytes_read()
    few = rows.entries(LAYER, slice(4000, 4008))
    assert bytes_read() - before < 1 << 20
    with open_tensor_files(directory) as files:
        whole = files.read(f"{LAYER}.weight")
    assert torch.equal(few, whole[4000:4008].float())


def test_a_file_that_was_cut_short_since_it_was_opened_is_damaged(
    directory: Path, tmp_path: Path
) -> None:
    content = (directory / FILE).read_bytes()
    copy = tmp_path / FILE
    copy.write_bytes(content)
    with open_tensor_files(tmp_path) as files:
        copy.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointDamaged, match="cannot be read"):
            list(map(files.read, files.file_of))
