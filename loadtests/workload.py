"""Closed-loop load: so many requests at a time, each a seeded prompt, greedy, of a fixed length."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from intarsia_client import AsyncClient

PROMPT_TOKENS = 32
NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured."""

    tokens_per_s: float
    first_token_s: float  # median time to first token


async def closed_loop(
    url: str, models: Sequence[str], concurrency: int, requests: int, seed: int
) -> Round:
    """Send `requests` requests, `concurrency` at a time; request i names models[i % len]."""
    source = random.Random(seed)
    prompts = [
        [source.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)] for _ in range(requests)
    ]
    seats = asyncio.Semaphore(concurrency)
    async with AsyncClient(url) as client:
        started = time.perf_counter()
        first = await asyncio.gather(
            *(
                _one(client, seats, prompt, models[index % len(models)])
                for index, prompt in enumerate(prompts)
            )
        )
        elapsed = time.perf_counter() - started
    return Round(requests * NEW_TOKENS / elapsed, median(first))


async def _one(
    client: AsyncClient, seats: asyncio.Semaphore, prompt: list[int], model: str
) -> float:
    """Seconds to the first token of one request."""
    async with seats:
        started, first = time.perf_counter(), None
        stream = client.stream(
            prompt, model=model, max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, logprobs=0
        )
        async for _ in stream:
            first = first or time.perf_counter() - started
        assert first is not None, "a stream without a chunk"
        return first
