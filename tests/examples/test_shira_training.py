"""Training of the example adapters: the loss, the mask, and going on after a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from examples.batches import answer_loss, count_shared, encode_answer, encode_prompt, make_batch
from examples.shira_mask import snip_mask_fn
from examples.tasks import Row
from examples.train_shira import TARGET, Trainer, Training, new_trainer, train

ROWS = [Row(f"Say {word}.", word) for word in ("a", "seven", "twenty one", "b", "c d")]
TRAINING = Training(steps=4, learning_rate=0.1, batch_size=2, warmup_steps=1, r=1)
pytestmark = [
    pytest.mark.demo,
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing."),
]


@pytest.fixture
def tiny_base(demo_base: Path, tmp_path: Path) -> Path:
    """A random tiny model with the demo base's tokenizer."""
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo_base).save_pretrained(folder)
    return folder


def values(trainer: Trainer) -> list[torch.Tensor]:
    return [weight.detach() for weight in trainer.optimizer.param_groups[0]["params"]]


def plain_loss(model: Any, tokenizer: Any, rows: list[Row]) -> torch.Tensor:
    """Each row computed alone and whole."""
    losses = []
    for row in rows:
        prompt, answer = encode_prompt(tokenizer, row.prompt), encode_answer(tokenizer, row.target)
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses.append(cross_entropy(logits, torch.tensor(answer), reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS], ids=["one row", "rows of many lengths"])
def test_sharing_the_prefix_changes_neither_loss_nor_gradient(
    tiny_base: Path, rows: list[Row]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = Phi3ForCausalLM.from_pretrained(tiny_base)
    weight = model.model.layers[0].self_attn.qkv_proj.weight
    shared, alone = (
        answer_loss(model, make_batch(tokenizer, rows)),
        plain_loss(model, tokenizer, rows),
    )
    torch.testing.assert_close(shared, alone)
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (shared, alone)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1]], 0),
        ([[1, 2, 3]], 2),
        ([[1, 2], [1, 2]], 1),
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2, 3], [1, 4, 3]], 1),
        ([[5, 2], [6, 2]], 0),
    ],
)
def test_every_prompt_keeps_a_token_of_its_own(prompts: list[list[int]], shared: int) -> None:
    assert count_shared(prompts) == shared


def test_mask_holds_exactly_the_entries_that_move_the_loss_most(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = Phi3ForCausalLM.from_pretrained(tiny_base)
    batch = make_batch(tokenizer, ROWS)
    layer = model.model.layers[1].self_attn.qkv_proj
    (gradient,) = torch.autograd.grad(answer_loss(model, batch), layer.weight)
    score = (layer.weight * gradient).abs()
    mask = snip_mask_fn(model, [batch], TARGET)(layer, r=2).bool()
    assert mask.sum() == 2 * sum(layer.weight.shape)
    assert score[mask].min() >= score[~mask].max()


def test_killed_training_goes_on_to_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    whole = new_trainer(tiny_base, ROWS, TRAINING)
    train(whole, tmp_path / "whole.pt")
    killed = new_trainer(tiny_base, ROWS, TRAINING)
    killed.advance()
    killed.save(tmp_path / "killed.pt")
    resumed = new_trainer(tiny_base, ROWS, TRAINING)
    train(resumed, tmp_path / "killed.pt")
    assert resumed.step == TRAINING.steps
    for ours, theirs in zip(values(resumed), values(whole), strict=True):
        assert torch.equal(ours, theirs)
    assert any(weight.any() for weight in values(whole))


def test_save_of_another_training_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    trainer = new_trainer(tiny_base, ROWS, TRAINING)
    trainer.save(tmp_path / "progress.pt")
    other = new_trainer(tiny_base, ROWS, replace(TRAINING, seed=1))
    with pytest.raises(ValueError, match="another training"):
        other.resume(tmp_path / "progress.pt")


def test_every_epoch_takes_every_row_once() -> None:
    training = replace(TRAINING, batch_size=1)
    for epoch in range(2):
        steps = range(epoch * len(ROWS), (epoch + 1) * len(ROWS))
        seen = [row.target for step in steps for row in training.batch_rows(ROWS, step)]
        assert sorted(seen) == sorted(row.target for row in ROWS)
