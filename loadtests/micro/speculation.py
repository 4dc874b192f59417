"""What guessing tokens ahead saves: steps, which are exact, and seconds as a share of none's.

    python -m loadtests.micro.speculation [--drafts 0 2 3 8] [--at-once 1 8]

Rows of real tasks as chats, some of whose answers repeat much of their prompt; greedy, on the demo
base. Numbers of drafts take turns, and each must give the same tokens. Each row of the table is
told as JSON when it is known.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.runner import ModelRunner
from server.engine.sampling_params import SamplingParams
from server.engine.sequence import GenerationRequest
from server.kernels.cpu.kernels import CpuKernels
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.kv_cache import allocate
from server.model.load import load_model
from server.model.phi3 import Phi3
from server.model.text import TextCodec

T = TypeVar("T")

ROWS, LEAST = 8, 4  # prompts of a task, and of them those that are asked one by one
PAGE, NUM_PAGES, MAX_MODEL_LEN, MAX_TOKENS = 32, 400, 1024, 64
TASKS = {  # name -> task of the rows, rows of one prompt, what comes before them
    "correct": ("sentiment_yelp", 1, "Answer with this text, its spelling corrected:\n"),
    "list": ("sms_spam", 4, "Answer with a JSON list of these messages:\n"),
    "summarise": ("sentiment_yelp", 2, "Summarise this in two sentences:\n"),
    "dates": ("date_normalisation", 4, ""),
    "translate": ("german_to_english", 1, ""),
    "chat": ("country_facts", 1, ""),
}


class Found(NamedTuple):
    """One run of all rows of a task."""

    seconds: float
    steps: int
    drafted: int
    accepted: int
    tokens: list[list[int]]


def main() -> None:
    arguments = _arguments()
    checkpoint = open_checkpoint(str(arguments.checkpoint))
    model = load_model(checkpoint, torch.float32, "cpu", CpuKernels())
    table = Table("task", "at once", "drafts", "tokens", "steps", "right", "seconds", "of none's")
    for name in TASKS:
        prompts = _prompts(arguments.rows, checkpoint, name)
        for at_once in arguments.at_once:
            asked = prompts[: max(at_once, LEAST)]
            found = _measure(checkpoint, model, asked, at_once, arguments.drafts)
            for count in arguments.drafts:
                row = _row(name, at_once, count, found)
                print(json.dumps(row), flush=True)
                table.add_row(*map(str, row.values()))
    Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drafts", nargs="+", type=int, default=[0, 2, 3, 8])
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--checkpoint", type=Path, default=Path("data/demo-base"))
    parser.add_argument("--rows", type=Path, default=Path("data/tasks"))
    return parser.parse_args()


def _prompts(directory: Path, checkpoint: Checkpoint, name: str) -> list[tuple[int, ...]]:
    task, rows_each, instruction = TASKS[name]
    lines = (directory / task / "test.jsonl").read_text().splitlines()[: ROWS * rows_each]
    texts = [str(json.loads(line)["prompt"]) for line in lines]
    if instruction:  # in the place of the task's own
        texts = [text.partition("\n")[2] for text in texts]
    asked = [instruction + "\n".join(some) for some in _groups(texts, rows_each)]
    return [tuple(_chat(checkpoint, text)) for text in asked]


def _groups(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def _chat(checkpoint: Checkpoint, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    ids: list[int] = checkpoint.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return ids


def _measure(
    checkpoint: Checkpoint,
    model: Phi3,
    prompts: Sequence[tuple[int, ...]],
    at_once: int,
    drafts: Sequence[int],
) -> dict[int, Found]:
    """By number of drafts: the sums over all prompts, `at_once` at a time, taking turns."""
    found = {count: Found(0.0, 0, 0, 0, []) for count in drafts}
    for some in _groups(prompts, at_once):
        for count in drafts:
            found[count] = _added(found[count], _run(_engine(checkpoint, model, count), some))
    assert all(each.tokens == found[drafts[0]].tokens for each in found.values())
    return found


def _added(one: Found, other: Found) -> Found:
    return Found(
        one.seconds + other.seconds,
        one.steps + other.steps,
        one.drafted + other.drafted,
        one.accepted + other.accepted,
        one.tokens + other.tokens,
    )


def _engine(checkpoint: Checkpoint, model: Phi3, num_draft_tokens: int) -> Engine:
    config = EngineConfig(
        MAX_MODEL_LEN, NUM_PAGES, page_size=PAGE, num_draft_tokens=num_draft_tokens
    )
    cache = allocate(checkpoint.config, NUM_PAGES, PAGE, torch.float32, "cpu")
    nothing: Mapping[str, Any] = {}
    eos = checkpoint.eos_token_ids
    runner = ModelRunner(model, cache, PAGE, nothing.__getitem__, eos)
    return Engine(config, runner, TextCodec(checkpoint.tokenizer).decode, eos)


def _run(engine: Engine, prompts: Sequence[tuple[int, ...]]) -> Found:
    """Seconds and steps after the prompts were computed."""
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0)
        engine.add(GenerationRequest(str(index), prompt, sampling))
    tokens: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
    start, steps, is_decoding = time.perf_counter(), 0, False
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise output.error
            tokens[output.request_id] += output.token_ids
        steps += 1
        if not is_decoding and all(tokens.values()):
            start, steps, is_decoding = time.perf_counter(), 0, True
    seconds, stats = time.perf_counter() - start, engine.stats()
    return Found(seconds, steps, stats.draft_tokens, stats.accepted_tokens, [*tokens.values()])


def _row(name: str, at_once: int, drafts: int, found: Mapping[int, Found]) -> dict[str, Any]:
    own, least = found[drafts], found[min(found)]
    return {
        "task": name,
        "at_once": at_once,
        "drafts": drafts,
        "tokens": sum(map(len, own.tokens)),
        "steps": own.steps,
        "right": round(own.accepted / own.drafted, 2) if own.drafted else None,
        "seconds": round(own.seconds, 2),
        "of_none": round(own.seconds / least.seconds, 2),
    }


if __name__ == "__main__":
    main()
