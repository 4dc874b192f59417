"""What a server of one base says of itself: memory by kind, seconds per token, tokens, by HTTP."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "Sixty words or fewer."  # shorter than a page of tokens: nothing of it is ever cached
CPU_SECONDS = "process_cpu_seconds_total"
STATUS_FIELDS = {"peak": "VmHWM", "private": "RssAnon", "mapped": "RssFile"}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process: the most it ever had in memory, and what it has now."""

    peak: int
    private: int  # what it allocated
    mapped: int  # of files, which the system may take back


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens of one request, as text, and when they came."""

    tokens: Sequence[str]
    logprobs: Sequence[float]
    first_s: float
    per_token_s: float  # median of the gaps between tokens
    cpu_s: float  # of all threads, for the whole answer


def memory_of(pid: int) -> Memory:
    """Of a living process, as Linux tells it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    said = {name: value for name, _, value in (line.partition(":") for line in lines)}
    kibibytes = {own: int(said[field].split()[0]) for own, field in STATUS_FIELDS.items()}
    return Memory(**{own: count << 10 for own, count in kibibytes.items()})


def ask(http: httpx.Client, model: str, mode: str, count: int) -> Answer:
    """`count` tokens of the same prompt every time, in the mode that is named."""
    body = {"model": model, "mode": mode, "prompt": PROMPT, "max_tokens": count, "logprobs": 0}
    body |= {"temperature": 0, "ignore_eos": True, "stream": True}
    tokens, logprobs, times = [], [], []
    cpu_before, began = _cpu_seconds(http), time.perf_counter()
    with http.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            response.read()
            response.raise_for_status()
        for line in response.iter_lines():
            for told in _logprobs(line):
                tokens += told["tokens"]
                logprobs += told["token_logprobs"]
                times.append(time.perf_counter() - began)
    gaps = [after - before for before, after in pairwise(times)]
    cpu_s = _cpu_seconds(http) - cpu_before
    return Answer(tokens, logprobs, times[0], median(gaps), cpu_s)


def _cpu_seconds(http: httpx.Client) -> float:
    families = text_string_to_metric_families(http.get("/metrics").raise_for_status().text)
    samples = (sample for family in families for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == CPU_SECONDS)


def _logprobs(line: str) -> list[dict[str, Any]]:
    """What an event of the stream says of tokens."""
    event = line.removeprefix("data: ")
    if not event.startswith("{"):
        return []
    told = [choice["logprobs"] for choice in json.loads(event)["choices"]]
    return [one for one in told if one and one["tokens"]]
