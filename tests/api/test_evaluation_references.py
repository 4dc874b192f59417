"""Outputs and likelihoods of an evaluation are transformers', row by row, adapters folded in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engines import weights_with
from evaluation_runs import all_rows, evaluate, rows_of
from servers import RunningServer
from tiny_adapters import make_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_TOKENS = 8
NAMES = ("reference/one", "reference/two")


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.http() as http:
        yield http


@pytest.fixture(scope="module")
def found(client: httpx.Client, server: RunningServer) -> list[dict[str, Any]]:
    """The rows of the base and two adapters, in one batch."""
    for seed, name in enumerate(NAMES, start=900):
        server.upload(make_adapter(server.base, seed=seed), name)
    evaluation = evaluate(
        client,
        subjects=["base", *NAMES],
        dataset={"rows": rows_of(8)},
        metrics=["rouge_l", "accuracy", "loss"],
        generation={"max_tokens": MAX_TOKENS},
    )
    return all_rows(client, evaluation["id"])


@pytest.mark.parametrize("index", range(3))
def test_rows_are_those_of_transformers(
    found: list[dict[str, Any]], server: RunningServer, tiny_base: Path, index: int
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    if index:
        parameters = dict(model.named_parameters())
        change = weights_with(make_adapter(server.base, seed=899 + index))
        with torch.no_grad():
            for layer, delta in change.items():
                parameters[f"{layer}.weight"] += delta
    mine = found[index :: 1 + len(NAMES)]
    assert len(mine) == 8
    for row, asked in zip(mine, rows_of(8), strict=True):
        prompt = tokenizer(asked["prompt"], return_tensors="pt")
        length = prompt["input_ids"].shape[1]
        made = model.generate(**prompt, max_new_tokens=MAX_TOKENS, do_sample=False)
        assert row["output"] == tokenizer.decode(made[0, length:], skip_special_tokens=True)
        for choice, told in zip(asked["choices"], row["choices"], strict=True):
            whole = tokenizer(asked["prompt"] + choice, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logprobs = model(whole).logits.log_softmax(-1)[0, length - 1 : -1]
            scored = logprobs.gather(1, whole[0, length:, None])
            assert told["num_tokens"] == whole.shape[1] - length
            assert told["logprob"] == pytest.approx(scored.sum().item(), abs=2e-3)
        assert row["target"] == row["choices"][0]
