"""The rivals' own parts: weights in another form, and PEFT's batch, are what they claim to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from tiny_models import make_tiny_checkpoint
from transformers import Phi3ForCausalLM

from loadtests.bench.fleet import Fleet, Shape
from loadtests.rivals.gguf_files import rewrite
from loadtests.rivals.peft_server import Model, _padded

Q4_1 = GGMLQuantizationType.Q4_1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with a quantized matrix, a vector and settings of every kind."""
    path = tmp_path / "source.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(3)
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_layer_norm_rms_eps(1e-5)
    matrix = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    writer.add_tensor("matrix", quantize(matrix, Q4_1), raw_dtype=Q4_1)
    writer.add_tensor("vector", np.arange(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("kind", "error"), [("F32", 0.0), ("Q8_0", 0.02)])
def test_rewritten_weights_are_the_dequantized_ones(source: Path, kind: str, error: float) -> None:
    out = source.parent / "made" / "out.gguf"
    rewrite(source, out, kind)
    before, after = GGUFReader(source), GGUFReader(out)
    assert [each.name for each in after.tensors] == ["matrix", "vector"]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        expected = dequantize(old.data, old.tensor_type)
        found = dequantize(new.data, new.tensor_type)
        np.testing.assert_allclose(found, expected, atol=error if expected.ndim > 1 else 0)
    assert after.tensors[0].tensor_type.name == kind
    kept = ("llama.block_count", "tokenizer.ggml.tokens", "llama.attention.layer_norm_rms_epsilon")
    for name in kept:
        assert after.fields[name].contents() == before.fields[name].contents()
    assert list(out.parent.iterdir()) == [out]


def test_prompts_are_padded_on_the_left() -> None:
    ids, mask = _padded([[7], [5, 6, 7]])
    assert ids.tolist() == [[0, 0, 7], [5, 6, 7]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


class _Row:
    """A request without a web server."""

    def __init__(self, prompt: list[int], adapter: str, left: int) -> None:
        self.prompt, self.adapter, self.left = prompt, adapter, left


def _tokens(model: Model, *rows: _Row) -> list[list[int]]:
    with torch.inference_mode():
        steps = list(model._generated([*rows]))  # type: ignore[list-item]
    return [[step[index] for step in steps][: row.left] for index, row in enumerate(rows)]


# transformers warns of what PEFT reads.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_mixed_batch_answers_as_each_row_alone(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "tiny")
    folders = Fleet(2, 0.3).write("low_rank", Shape.of(base), tmp_path / "adapters")
    model = Model(base, [*folders.values()], batch=4)
    rows = [
        _Row([5, 6, 7, 8, 9], "__base__", 6),
        _Row([5, 6], "adapter-000", 3),
        _Row([9, 4, 6], "adapter-001", 6),
    ]
    together = _tokens(model, *rows)
    assert together == [_tokens(model, row)[0] for row in rows]
    assert [len(tokens) for tokens in together] == [6, 3, 6]
    plain = Phi3ForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    prompt = torch.tensor([rows[0].prompt])
    whole = plain.generate(prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert together[0] == whole[0, prompt.shape[1] :].tolist()
