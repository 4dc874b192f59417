"""Logits to tokens, row by row, so that no row's choice depends on its batch mates.

Draws are counter-based: the uniform number of a request's i-th output token is a function of (seed,
i) alone (Philox; Salmon et al. 2011), so preemption and batching change nothing. The order of the
steps is vLLM's: bias and penalties, temperature, min-p, top-k, top-p.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.engine.sampling_params import SamplingParams
from server.engine.sequence import TokenLogprobs

SEED_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token chosen for one row, with log-probabilities where the request wants them."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample(
    logits: Tensor,
    sampling: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    eos_token_ids: frozenset[int],
) -> SampledToken:
    """Choose the next token of one sequence from `logits [vocab]` fp32, which are left unchanged.

    Log-probabilities are those of the model: before bias, penalties and temperature.
    """
    adjusted = _adjust(logits, sampling, prompt, output, eos_token_ids)
    if sampling.is_greedy:
        token_id = int(torch.argmax(adjusted))
    else:
        token_id = _draw(_probabilities(adjusted, sampling), _uniform(sampling.seed, len(output)))
    wanted = sampling.logprobs
    return SampledToken(
        token_id, None if wanted is None else token_logprobs(logits, token_id, wanted)
    )


def token_logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Log-probability and rank of `token_id` under `logits [vocab]`; the `num_top` likeliest."""
    logprobs = torch.log_softmax(logits, dim=-1)
    own = logprobs[token_id]
    values, ids = torch.topk(logprobs, num_top)
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(own),
        rank=int((logprobs > own).sum()) + 1,
        top=tuple(zip(ids.tolist(), values.tolist(), strict=True)),
    )


def _adjust(
    logits: Tensor,
    sampling: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    eos_token_ids: frozenset[int],
) -> Tensor:
    """A copy of `logits` with bias, penalties and the ban on early endings applied."""
    adjusted = logits.clone()
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), device=logits.device)
        adjusted[ids] += torch.tensor(list(sampling.logit_bias.values()), device=logits.device)
    if sampling.has_penalties:
        _penalize(adjusted, sampling, prompt, output)
    if len(output) < sampling.min_tokens:
        adjusted[list(eos_token_ids | sampling.stop_token_ids)] = -torch.inf
    return adjusted


def _penalize(
    logits: Tensor, sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> None:
    """Repetition penalty over prompt and output; frequency and presence over the output only."""
    seen = torch.tensor(sorted({*prompt, *output}), device=logits.device)
    penalty = sampling.repetition_penalty
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    counts = Counter(output)
    made = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
    times = torch.tensor(list(counts.values()), device=logits.device)
    logits[made] -= sampling.frequency_penalty * times + sampling.presence_penalty


def _probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """Softmax at the request's temperature, cut by min-p, top-k and top-p; not normalized."""
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.min_p > 0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    if 0 < sampling.top_k < len(logits):
        kept = torch.topk(probabilities, sampling.top_k)
        probabilities = torch.zeros_like(probabilities).index_copy_(0, kept.indices, kept.values)
    if sampling.top_p < 1:
        _keep_nucleus(probabilities, sampling.top_p)
    return probabilities


def _keep_nucleus(probabilities: Tensor, top_p: float) -> None:
    """Zero all but the fewest likeliest tokens whose mass reaches `top_p` of what is left."""
    ordered, ids = torch.sort(probabilities, descending=True, stable=True)
    mass_before = ordered.cumsum(0) - ordered
    probabilities[ids[mass_before >= top_p * ordered.sum()]] = 0


def _draw(probabilities: Tensor, uniform: float) -> int:
    """Invert the cumulative distribution at `uniform` in [0, 1)."""
    cumulative = probabilities.cumsum(0)
    target = cumulative[-1] * uniform
    return int(torch.searchsorted(cumulative, target, right=True).clamp(max=_last(probabilities)))


def _last(probabilities: Tensor) -> int:
    """The last token that may be drawn: guards against rounding at the far end."""
    return int(probabilities.nonzero()[-1])


def _uniform(seed: int, index: int) -> float:
    """The `index`-th uniform number of `seed`, in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=seed & SEED_MASK, counter=index)).random()
