"""The one body that every side is sent for an ask: OpenAI's completions, greedy, streamed."""

from typing import Any

from loadtests.workload import Ask

BASE = "base"  # every side serves it under this name


def adapter_name(number: int) -> str:
    """Under which every side serves its adapter of that number."""
    return f"adapter-{number:03}"


def model_name(adapter: int | None) -> str:
    return BASE if adapter is None else adapter_name(adapter)


def body(ask: Ask, model: str) -> dict[str, Any]:
    """Answers have as many tokens as asked: ends of text are ignored by whoever can."""
    return {
        "model": model,
        "prompt": list(ask.prompt),
        "max_tokens": ask.answer_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
