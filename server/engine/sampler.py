"""Logits to tokens, row by row, so that no row's choice depends on its batch mates.

Draws are counter-based: the uniform number of a request's i-th output token is a function of (seed,
i) alone (Philox; Salmon et al. 2011), so preemption and batching change nothing. The order of the
steps is vLLM's: bias and penalties, temperature, min-p, top-k, top-p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from server.engine.errors import LogitsUnusable
from server.engine.sampling_params import SamplingParams
from server.engine.sequence import TokenLogprobs
from server.kernels.interface import LogitSummary

SEED_MASK = (1 << 64) - 1
NUCLEUS_GUESS = 512  # likeliest tokens looked at before a whole vocabulary is sorted


@dataclass(frozen=True, slots=True, eq=False)
class LogitsRow:
    """Logits `[vocab]` in fp32, and their summary (`LogitSummary`).

    Logits that nobody reads (`reads_logits`) may be missing: `[0]`.
    """

    logits: Tensor
    best: int
    highest: float
    log_sum: float

    @property
    def is_usable(self) -> bool:
        return math.isfinite(self.highest) and math.isfinite(self.log_sum)


def rows_of(logits: Tensor, summary: LogitSummary) -> list[LogitsRow]:
    """The rows of `logits [n, vocab]`."""
    columns = (column.tolist() for column in summary)
    return [LogitsRow(*row) for row in zip(logits.unbind(), *columns, strict=True)]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token chosen for one row, with log-probabilities where the request wants them."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample(
    row: LogitsRow,
    sampling: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    eos_token_ids: frozenset[int],
) -> SampledToken:
    """Choose the next token of one sequence from a row of logits, which are left unchanged.

    Log-probabilities are those of the model: before bias, penalties and temperature. Raises
    LogitsUnusable where no token is left to choose.
    """
    if _is_adjusted(sampling, len(output)):
        logits = _adjust(row.logits, sampling, prompt, output, eos_token_ids)
        best = int(torch.argmax(logits))
        is_usable = math.isfinite(logits[best])
    else:
        logits, best, is_usable = row.logits, row.best, row.is_usable
    if not is_usable:
        raise LogitsUnusable
    if sampling.is_greedy:
        token_id = best
    else:
        token_id = _draw(_probabilities(logits, sampling), _uniform(sampling.seed, len(output)))
    wanted = sampling.logprobs
    return SampledToken(token_id, None if wanted is None else token_logprobs(row, token_id, wanted))


def token_logprobs(row: LogitsRow, token_id: int, num_top: int) -> TokenLogprobs:
    """Log-probability and rank of `token_id` in a row of logits; the `num_top` likeliest.

    Raises LogitsUnusable for logits that are no numbers.
    """
    own = float(row.logits[token_id])
    if not (row.is_usable and math.isfinite(own)):
        raise LogitsUnusable
    return TokenLogprobs(
        token_id=token_id,
        logprob=own - row.highest - row.log_sum,
        rank=1 if token_id == row.best else int((row.logits > own).sum()) + 1,
        top=_likeliest_logprobs(row, num_top),
    )


def _likeliest_logprobs(row: LogitsRow, num_top: int) -> tuple[tuple[int, float], ...]:
    if num_top == 0:
        return ()
    values, ids = torch.topk(row.logits, num_top)
    logprobs = (value - row.highest - row.log_sum for value in values.tolist())
    return tuple(zip(ids.tolist(), logprobs, strict=True))


def reads_logits(sampling: SamplingParams, num_output: int) -> bool:
    """Whether choosing the token after `num_output` reads more of a row than its summary."""
    is_plain = sampling.is_greedy and sampling.logprobs is None
    return not is_plain or _is_adjusted(sampling, num_output)


def _is_adjusted(sampling: SamplingParams, num_output: int) -> bool:
    is_biased = bool(sampling.logit_bias) or num_output < sampling.min_tokens
    return is_biased or sampling.has_penalties


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
    seen, penalty = _ids([*prompt, *output], logits), sampling.repetition_penalty
    penalized = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    logits[seen] = penalized.clamp(max=torch.finfo(logits.dtype).max)  # a repeated id, one value
    made, times = _ids(output, logits).unique(return_counts=True)
    logits[made] -= sampling.frequency_penalty * times + sampling.presence_penalty


def _ids(tokens: Sequence[int], logits: Tensor) -> Tensor:
    # By way of numpy, which reads a long list of ints five times as fast as torch.
    return torch.from_numpy(np.array(tokens, dtype=np.int64)).to(logits.device)


def _probabilities(logits: Tensor, sampling: SamplingParams) -> Tensor:
    """Softmax at the request's temperature, cut by min-p, top-k and top-p; not normalized."""
    below_top = logits.double() - logits.max()  # at most 0, so no temperature makes an infinity
    probabilities = torch.softmax(below_top / sampling.temperature, dim=-1)
    if sampling.min_p > 0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    if 0 < sampling.top_k < len(logits):
        kept = torch.topk(probabilities, sampling.top_k)
        probabilities = torch.zeros_like(probabilities).index_copy_(0, kept.indices, kept.values)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return probabilities


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """All zero but the fewest likeliest tokens, at least one, whose mass reaches `top_p` of it."""
    wanted = top_p * probabilities.sum()
    ordered, ids = _likeliest(probabilities, wanted)
    mass_before = ordered.cumsum(0) - ordered
    kept = torch.where(mass_before < wanted, ordered, 0)
    kept[0] = ordered[0]
    return torch.zeros_like(probabilities).index_copy_(0, ids, kept)


def _likeliest(probabilities: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, most likely first, as many as hold `mass` or more; and their ids."""
    count = NUCLEUS_GUESS
    while count < len(probabilities):
        ordered, ids = torch.topk(probabilities, count)
        if ordered.sum() >= mass:
            return ordered, ids
        count *= 8
    return torch.sort(probabilities, descending=True, stable=True)


def _draw(probabilities: Tensor, uniform: float) -> int:
    """Invert the cumulative distribution at `uniform` in [0, 1)."""
    cumulative = probabilities.cumsum(0)
    total = float(cumulative[-1])
    # Below the total even where the product rounds up to it, so the token found can be drawn.
    target = min(total * uniform, math.nextafter(total, 0.0))
    return int(torch.searchsorted(cumulative, target, right=True))


def _uniform(seed: int, index: int) -> float:
    """The `index`-th uniform number of `seed`, in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=seed & SEED_MASK, counter=index)).random()
