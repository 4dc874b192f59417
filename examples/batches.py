"""Rows as token batches, and the loss of their answers.

The tokens that all prompts of a batch begin with (system prompt, instruction) are computed once
and shared, which halves the work. Knows nothing of adapters or of optimizers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.tasks import Row


@dataclass(frozen=True, slots=True)
class Batch:
    """Symbols: B rows, P shared tokens, S the most tokens that follow, A answer tokens of all."""

    prefix: Tensor  # [1, P]
    suffix: Tensor  # [B, S], padded on the right: no real token sees a padding token
    answers: tuple[Tensor, Tensor]  # row and column in `suffix` before each answer token, [A] each
    targets: Tensor  # [A]


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """One user message through the chat template, as the server applies it."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def encode_answer(tokenizer: Any, target: str) -> list[int]:
    """The answer and the token that ends it."""
    ids: list[int] = tokenizer.encode(target, add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id]


def count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all `prompts` share; a last token of its own is left to each."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def make_batch(tokenizer: Any, rows: Sequence[Row]) -> Batch:
    prompts = [encode_prompt(tokenizer, row.prompt) for row in rows]
    answers = [encode_answer(tokenizer, row.target) for row in rows]
    num_shared = count_shared(prompts)
    suffixes = [
        torch.tensor(prompt[num_shared:] + answer[:-1])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    places = [
        (row, len(prompt) - num_shared - 1 + i)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        for i in range(len(answer))
    ]
    row_index, column_index = torch.tensor(places).T
    return Batch(
        prefix=torch.tensor([prompts[0][:num_shared]]),
        suffix=torch.nn.utils.rnn.pad_sequence(suffixes, batch_first=True),
        answers=(row_index, column_index),
        targets=torch.tensor([token for answer in answers for token in answer]),
    )


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Mean cross entropy of the answer tokens; `model` is a Phi3ForCausalLM, adapted or not."""
    shared = model.model(batch.prefix, use_cache=True).past_key_values
    shared.batch_repeat_interleave(len(batch.suffix))
    hidden = model.model(batch.suffix, past_key_values=shared, use_cache=True).last_hidden_state
    return cross_entropy(model.lm_head(hidden[batch.answers]), batch.targets)
