"""What all prompts of a batch begin with is computed once, and changes nothing but the cost."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import LONGROPE_BOUNDARY, VARIATIONS
from training_models import tiny_causal_lm

from adapters_store.training.answers import answer_losses
from adapters_store.training.data import LEAST_SAVED, Encoded, collate, count_shared

SHARED = list(range(5, 17))
ROWS = [Encoded([*SHARED, *range(30, 31 + i)], [40 + i, 41, 2][: 1 + i % 3]) for i in range(5)]


def losses_and_gradient(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weight = model.model.layers[0].self_attn.qkv_proj.weight
    losses = answer_losses(model, batch)
    return losses, torch.autograd.grad(losses.mean(), weight)[0]


def widths_of_passes(model: Any, batch: dict[str, torch.Tensor]) -> list[int]:
    seen: list[int] = []
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _, ids, __: seen.append(ids[0].numel()))
    answer_losses(model, batch)
    handle.remove()
    return seen


@pytest.mark.parametrize("variation", [name for name in VARIATIONS if name.startswith("phi")])
def test_shared_tokens_change_neither_losses_nor_gradients(variation: str) -> None:
    model, batch = tiny_causal_lm(variation), collate(ROWS)
    assert int(batch["shared"]) == len(SHARED)
    apart = losses_and_gradient(model, batch | {"shared": torch.tensor(0)})
    torch.testing.assert_close(losses_and_gradient(model, batch), apart)


def test_shared_tokens_are_computed_once() -> None:
    rest = max(len(row.prompt) + len(row.answer) - 1 for row in ROWS) - len(SHARED)
    assert widths_of_passes(tiny_causal_lm(), collate(ROWS)) == [len(SHARED), 5 * rest]


def test_batch_beyond_the_length_where_its_rotation_changes_is_computed_whole() -> None:
    model = tiny_causal_lm("phi3.5-mini")
    long = [Encoded([*row.prompt[:-1], *range(60, 60 + LONGROPE_BOUNDARY), 7], [9]) for row in ROWS]
    assert len(widths_of_passes(model, collate(long))) == 1


def test_model_whose_state_cannot_be_shared_is_computed_whole() -> None:
    model = tiny_causal_lm()
    model._is_stateful = True
    assert len(widths_of_passes(model, collate(ROWS))) == 1


PROMPTS = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=60), min_size=1, max_size=6)


@given(PROMPTS, st.lists(st.integers(1, 2), max_size=60))
def test_a_prompt_keeps_its_last_token_and_a_pass_saves_enough(
    prompts: list[list[int]], begin: list[int]
) -> None:
    prompts = [begin + prompt for prompt in prompts]
    count = count_shared(prompts)
    assert all(prompt[:count] == prompts[0][:count] for prompt in prompts)
    assert count < min(map(len, prompts))
    assert count == 0 or count * (len(prompts) - 1) >= LEAST_SAVED
