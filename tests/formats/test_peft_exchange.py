"""PEFT loads what we export, we load what PEFT saves, and both give the same logits.

The reference is transformers in fp64, with the dense change added to its weights.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import RealEngine, request, run_to_end
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from store_factories import BASE, DTYPES, MAKERS, QKV, adapter_of, low_rank, random
from tiny_adapters import DOWN, make_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters_store.adapter import BaseIdentity, LowRankDelta, SparseAdapter
from adapters_store.converters.patterns import element_delta
from adapters_store.errors import AdapterRefused
from adapters_store.exporters.peft_lora import write_lora
from adapters_store.exporters.peft_shira import own_entries, write_shira
from adapters_store.importers.peft import read_peft
from offline.base import Base
from server.adapters.composition import Composition
from server.model.checkpoint import open_checkpoint

TOLERANCE = 2e-5  # of the largest logit
PROMPT = [20, 21, 22, 23, 24, 25, 26, 90, 120, 7]
SMALL = "layers.1.down"
LAYERS = ("model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.qkv_proj", DOWN)


def transformers_model(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([PROMPT])).logits[0]
    return logits.double()


def reference(path: Path, adapter: SparseAdapter) -> Tensor:
    """fp64 logits with the adapter's dense changes in the weights."""
    model = transformers_model(path).double()
    for delta in adapter.deltas:
        model.get_submodule(delta.layer).weight.data += delta.dense().double()
    return logits_of(model)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) < TOLERANCE


def peft_logits(path: Path, directory: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about itself
        return logits_of(PeftModel.from_pretrained(transformers_model(path), directory))


def tuned_apart(identity: BaseIdentity, scale: float = 0.75) -> SparseAdapter:
    """Low rank deltas of different ranks and scales, one negative."""
    adapter = make_adapter(identity, "low_rank", 3, LAYERS, spread=0.3)
    deltas = list(adapter.deltas)
    first = deltas[0]
    assert isinstance(first, LowRankDelta)
    wide = replace(first, a=first.a.repeat(3, 1), b=first.b.repeat(1, 3), scale=-1 / 3)
    return replace(adapter, deltas=(wide, replace(deltas[1], scale=scale), deltas[2]))


@pytest.mark.parametrize("kind", ["element", "block 16x16", "block 1x16"])
def test_peft_gives_our_logits_for_exported_shira(tiny: Path, tmp_path: Path, kind: str) -> None:
    adapter = make_adapter(Base.open(tiny).identity, kind, 5, LAYERS)
    adapter = replace(adapter, deltas=tuple(replace(d, scale=0.3) for d in adapter.deltas))
    write_shira(adapter, tmp_path)
    expected = reference(tiny, adapter)
    assert_same(peft_logits(tiny, tmp_path), expected)
    assert float((logits_of(transformers_model(tiny)) - expected).abs().max()) > 0.1


def test_peft_gives_our_logits_for_exported_lora(tiny: Path, tmp_path: Path) -> None:
    adapter = tuned_apart(Base.open(tiny).identity)
    write_lora(adapter, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(config["rank_pattern"]) == 1
    assert len(config["alpha_pattern"]) == 2
    assert_same(peft_logits(tiny, tmp_path), reference(tiny, adapter))


def test_exported_lora_comes_back_with_the_same_meaning(tiny: Path, tmp_path: Path) -> None:
    base = Base.open(tiny)
    adapter = tuned_apart(base.identity)
    write_lora(adapter, tmp_path)
    back = read_peft(tmp_path, base.identity, base.layout.parts)
    for before, after in zip(adapter.deltas, back.deltas, strict=True):
        assert torch.equal(before.dense(), after.dense())


SAVED: dict[str, Any] = {
    "SHiRA": lambda: ShiraConfig(r=3, target_modules=["qkv_proj", "down_proj"]),
    "LoRA": lambda: LoraConfig(r=4, lora_alpha=6, target_modules=["qkv_proj", "o_proj"]),
    "LoRA, rank stabilised": lambda: LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, target_modules=["qkv_proj"]
    ),
    "LoRA, patterns": lambda: LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["qkv_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.qkv_proj": 2},
        alpha_pattern={"down_proj": 5},
    ),
    "LoRA, patterns, rank stabilised": lambda: LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["qkv_proj"],
        rank_pattern={"layers.1.self_attn.qkv_proj": 2},
        alpha_pattern={"layers.0.self_attn.qkv_proj": 9},
    ),
}


@pytest.mark.parametrize("case", SAVED)
def test_we_give_pefts_logits_for_what_it_saves(tiny: Path, tmp_path: Path, case: str) -> None:
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, about itself
        trained = get_peft_model(transformers_model(tiny), SAVED[case]())
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.2)
        trained.save_pretrained(tmp_path)
    base = Base.open(tiny)
    adapter = read_peft(tmp_path, base.identity, base.layout.parts)
    expected = logits_of(trained.eval())
    assert_same(reference(tiny, adapter), expected)
    assert_same(engine_logits(tiny, adapter), expected[-1])


def engine_logits(path: Path, adapter: SparseAdapter) -> Tensor:
    """Of the prompt's last position, from an engine that serves the adapter."""
    real = RealEngine(open_checkpoint(str(path)))
    composition = Composition.linear([(real.publish(adapter), 1.0)])
    engine, runner = real.engine()
    run_to_end(engine, [request("r", PROMPT, composition, max_tokens=1)])
    return runner.recorded["r", len(PROMPT) - 1].double()


@given(data=st.data())
def test_shira_round_trip_drops_its_own_padding(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kinds = st.sampled_from(["element", "block", "strided block"])
    source, dtype = random(data.draw(st.integers(0, 99))), data.draw(st.sampled_from(DTYPES))
    adapter = adapter_of(
        *(
            replace(MAKERS[data.draw(kinds)](layer, dtype, source), scale=1.0)
            for layer in data.draw(st.sets(st.sampled_from(sorted(BASE.layers)), min_size=1))
        )
    )
    directory = tmp_path_factory.mktemp("shira")
    rank = write_shira(adapter, directory)
    stored = load_file(directory / "adapter_model.safetensors")
    for delta, back in zip(adapter.deltas, read_peft(directory, BASE, {}).deltas, strict=True):
        assert len(stored[f"base_model.model.{delta.layer}.shira_weight"]) == rank * sum(
            delta.shape
        )
        for mine, returned in zip(own_entries(delta), own_entries(back), strict=True):
            assert torch.equal(mine, returned)


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    write_shira(adapter_of(MAKERS["element"](QKV, torch.float32, random(1))), tmp_path)
    return tmp_path / "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("{", "malformed JSON"),
        ("[]", "expected a JSON object"),
        ('{"x": 1}', "x: unknown"),
        (f'{{"{QKV}": 0}}', "0, but that is not where the zeros begin"),
        (f'{{"{QKV}": 5}}', "5, but that is not where the zeros begin"),
        (f'{{"{QKV}": 9999}}', "9999, but that"),
        (f'{{"{QKV}": true}}', "True, but that"),
        (f'{{"{QKV}": "5"}}', "5, but that"),
    ],
)
def test_count_that_is_not_where_the_padding_begins_is_refused(
    padded: Path, counts: str, expected: str
) -> None:
    save_file(load_file(padded), padded, {"intarsia_own_entries": counts})
    with pytest.raises(AdapterRefused, match="intarsia_own_entries") as caught:
        read_peft(padded.parent, BASE, {})
    assert expected in str(caught.value)


def test_without_the_count_every_entry_is_the_adapters(padded: Path) -> None:
    save_file(load_file(padded), padded)
    [delta] = read_peft(padded.parent, BASE, {}).deltas
    assert delta.nnz == 3 * (48 + 16)


@pytest.mark.parametrize("kind", ["low rank", "dense", "bias"])
def test_shira_refuses_what_it_cannot_hold(tmp_path: Path, kind: str) -> None:
    adapter = adapter_of(MAKERS[kind](QKV, torch.float32, random(1)))
    with pytest.raises(AdapterRefused, match=f"{QKV}: SHiRA holds element and block"):
        write_shira(adapter, tmp_path)


def test_shira_refuses_a_layer_without_room_for_the_padding(tmp_path: Path) -> None:
    """PEFT adds r * (in + out) entries: 10 * 40 are more than 16 * 24."""
    places = torch.arange(16 * 24)
    whole = element_delta(SMALL, (16, 24), places, places.float())
    with pytest.raises(AdapterRefused, match=f"{SMALL}: SHiRA wants 10"):
        write_shira(adapter_of(whole), tmp_path)


@pytest.mark.parametrize("kind", ["element", "block", "dense", "bias"])
def test_lora_refuses_what_it_cannot_hold(tmp_path: Path, kind: str) -> None:
    low = low_rank(SMALL, torch.float32, random(1))
    adapter = adapter_of(low, MAKERS[kind](QKV, torch.float32, random(1)))
    with pytest.raises(AdapterRefused, match=f"{QKV}: LoRA holds low_rank"):
        write_lora(adapter, tmp_path)


@given(scale=st.floats(2.0**-40, 2.0**20, width=32), rank=st.integers(1, 40))
def test_any_scale_comes_back_from_alpha_and_rank(
    tmp_path_factory: pytest.TempPathFactory, scale: float, rank: int
) -> None:
    a, b = torch.ones(rank, 24), torch.ones(16, rank)
    directory = tmp_path_factory.mktemp("lora")
    write_lora(
        adapter_of(LowRankDelta(layer=SMALL, shape=(16, 24), a=a, b=b, scale=scale)), directory
    )
    [delta] = read_peft(directory, BASE, {}).deltas
    assert delta.scale == scale
