"""What a batch of base and adapters costs against the base alone, over HTTP, token for token.

Prompts and answers apart: first tokens of many prompts at once, and the steady steps after them.
Rounds of both sides alternate.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from intarsia_client import AsyncClient

PROMPT_TOKENS, NEW_TOKENS = 48, 24
BASE = "base"


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians of rounds, in seconds a token, by side: `base`, `mixed`."""

    batch: int
    prompt: Mapping[str, float]
    answer: Mapping[str, float]

    def ratios(self) -> dict[str, float]:
        return {
            "prompt": self.prompt["mixed"] / self.prompt[BASE],
            "answer": self.answer["mixed"] / self.answer[BASE],
        }

    def told(self) -> str:
        ratios = self.ratios()
        return (
            f"mixed over base alone, {self.batch} at a time: {ratios['prompt']:.2f} a prompt token "
            f"({1e3 * self.prompt[BASE]:.2f} ms alone), {ratios['answer']:.2f} an answer token "
            f"({1e3 * self.answer[BASE]:.2f} ms alone)"
        )


@dataclass(frozen=True, slots=True)
class Round:
    prompt: float  # seconds a prompt token, from the first request to the last first token
    answer: float  # seconds an answer token, after that


def costs(url: str, adapters: Sequence[str], batch: int, rounds: int) -> Costs:
    """Of `rounds` rounds of each side, after one of each to warm up."""
    sides = {BASE: [BASE], "mixed": [BASE, *adapters]}
    measured: dict[str, list[Round]] = {side: [] for side in sides}
    for index in range(rounds + 1):
        for side, models in sides.items():
            measured[side].append(asyncio.run(_round(url, models, batch, index)))
    kept = {side: found[1:] for side, found in measured.items()}
    return Costs(
        batch,
        {side: median(each.prompt for each in found) for side, found in kept.items()},
        {side: median(each.answer for each in found) for side, found in kept.items()},
    )


async def _round(url: str, models: Sequence[str], batch: int, seed: int) -> Round:
    source = random.Random(seed)
    prompts = [[source.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)] for _ in range(batch)]
    async with AsyncClient(url) as client:
        named = await _names(client, models)
        started = time.perf_counter()
        times = await asyncio.gather(
            *(_one(client, prompt, named[i % len(named)]) for i, prompt in enumerate(prompts))
        )
    prefilled = max(first for first, _ in times)
    steady = max(last for _, last in times) - prefilled
    per_step = steady / (NEW_TOKENS - 1)
    return Round((prefilled - started) / (batch * PROMPT_TOKENS), per_step / batch)


async def _names(client: AsyncClient, models: Sequence[str]) -> list[str]:
    """The base under the name that the server gives it."""
    (base,) = [model.id for model in await client.models() if model.parent is None]
    return [base if name == BASE else name for name in models]


async def _one(client: AsyncClient, prompt: list[int], model: str) -> tuple[float, float]:
    """When the first and the last token came."""
    times: list[float] = []
    stream = client.stream(
        prompt, model=model, max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, logprobs=0
    )
    async for _ in stream:
        times.append(time.perf_counter())
    return times[0], times[-1]
