"""What a model says to prompts: the loss of given answers, and answers of its own.

Knows batches (`data.py`), and of models only what every causal LM of transformers has.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adapters_store.training.data import Encoded, collate


@contextmanager
def head_at(model: Any, row: Tensor, column: Tensor) -> Iterator[None]:
    """Within, the output head sees the hidden states of these places only, as one sequence.

    The head is the widest matrix of a small model; at places that have no label it is wasted.
    """

    def pick(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][row, column][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def answer_losses(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross entropy of every answer token of `batch`, fp32 `[A]`."""
    ids = batch["input_ids"]
    num_shared = int(batch["shared"]) if _can_share(model, ids.shape[1]) else 0
    past = _computed_once(model, ids, num_shared) if num_shared else None
    with head_at(model, batch["row"], batch["column"] - num_shared):
        output = model(
            input_ids=ids[:, num_shared:],
            attention_mask=batch["attention_mask"],
            past_key_values=past,
            use_cache=past is not None,
        )
    return cross_entropy(output.logits[0].float(), batch["target"], reduction="none")


def _can_share(model: Any, num_tokens: int) -> bool:
    """Whether a first part's keys and values are what they would be within the whole."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    turns_with_length = rope.get("rope_type") in ("dynamic", "longrope")
    is_short = num_tokens <= rope.get("original_max_position_embeddings", 0)
    return not model._is_stateful and (is_short or not turns_with_length)


def _computed_once(model: Any, ids: Tensor, count: int) -> Any:
    """Keys and values of the first `count` columns, which all rows share, for every row."""
    none = torch.empty(0, dtype=torch.long, device=ids.device)
    with head_at(model, none, none):
        past = model(input_ids=ids[:1, :count], use_cache=True).past_key_values
    past.batch_repeat_interleave(len(ids))
    return past


def answer_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean over the answer tokens of a batch: what is minimized."""
    return answer_losses(model, batch).mean()


def mean_loss(model: Any, rows: Sequence[Encoded], batch: int) -> float:
    """The mean over the answer tokens of all `rows`, without gradients."""
    with torch.no_grad():
        losses = [answer_losses(model, _to(model, part)) for part in _batches(rows, batch)]
    return torch.cat(losses).double().mean().item()


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_tokens: int, batch: int
) -> list[str]:
    """Greedy answers of at most `max_tokens` tokens, up to the tokenizer's end of text."""
    texts: list[str] = []
    for first in range(0, len(prompts), batch):
        ids, mask = _padded_left(prompts[first : first + batch])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        new = out[:, ids.shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def rouge_l(pairs: Iterable[tuple[str, str]]) -> float:
    """Mean Rouge-L F of (answer, target) pairs, stemmed, in percent."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores: list[float] = [
        scorer.score(target, answer)["rougeL"].fmeasure for answer, target in pairs
    ]
    return 100 * sum(scores) / len(scores)


def _batches(rows: Sequence[Encoded], size: int) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(rows), size):
        yield collate(rows[first : first + size])


def _to(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _padded_left(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
