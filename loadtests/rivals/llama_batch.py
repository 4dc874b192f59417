"""llama.cpp in process: its C API for batches without HTTP, in the library that xllamacpp ships.

    python loadtests/rivals/llama_batch.py PLAN --out DIR --model FILE

Plays a plan as the load generator does and writes the same `answers.json`: as many sequences at
once as the plan has users, each token the likeliest one. A batch runs to its end before the next
begins. Run by the Python of an environment that also has llama-cpp-py-sync, whose declarations of
the C API are used; its own library wants a newer system than many have.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp.xllamacpp
from llama_cpp_py_sync._cffi_bindings import get_ffi

MOST_TOKENS = 2048  # of one call: llama.cpp's own default
SPARE = 16
# Some defaults of llama.cpp, from the first to the last of the settings: declarations that do not
# belong to the library would not find them.
DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "type_k": 1, "no_perf": True, "n_samplers": 0}


class Refused(Exception):
    """llama.cpp would not do `what`."""


class Sequences:
    """Token sequences that grow together in one context of llama.cpp."""

    def __init__(self, model: str, count: int, longest: int) -> None:
        self._ffi = ffi = get_ffi()
        self._lib = ffi.dlopen(xllamacpp.xllamacpp.__file__)
        signature = "void(enum ggml_log_level, const char *, void *)"
        self._silence = ffi.callback(signature, lambda level, text, data: None)
        self._lib.llama_log_set(self._silence, ffi.NULL)
        self._lib.llama_backend_init()
        settings = self._lib.llama_model_default_params()
        loaded = self._lib.llama_model_load_from_file(model.encode(), settings)
        settings = self._lib.llama_context_default_params()
        if {name: getattr(settings, name) for name in DEFAULTS} != DEFAULTS:
            raise Refused("settings as declared")
        settings.n_seq_max, settings.n_ctx = count, count * (longest + SPARE)
        settings.n_batch, settings.n_outputs_max = MOST_TOKENS, count
        settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
        self._context = self._lib.llama_init_from_model(loaded, settings)
        if self._context == ffi.NULL:
            raise Refused("a context")
        self._vocab = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(loaded))
        self._batch = self._lib.llama_batch_init(MOST_TOKENS, 0, 1)

    def clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def start(self, sequence: int, prompt: Sequence[int]) -> int:
        """Compute a prompt; its first token."""
        for first in range(0, len(prompt), MOST_TOKENS):
            part = prompt[first : first + MOST_TOKENS]
            rows = [(token, first + at, sequence) for at, token in enumerate(part)]
            tokens = self._decode(rows, [len(rows) - 1])
        return tokens[0]

    def step(self, rows: Sequence[tuple[int, int, int]]) -> list[int]:
        """The next token of each row (token, position, sequence)."""
        return self._decode(rows, range(len(rows)))

    def _decode(self, rows: Sequence[tuple[int, int, int]], wanted: Sequence[int]) -> list[int]:
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, 0
        for at in wanted:
            batch.logits[at] = 1
        if self._lib.llama_decode(self._context, batch):
            raise Refused(f"{len(rows)} tokens")
        return [self._likeliest(at) for at in wanted]

    def _likeliest(self, at: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, at)
        return int(np.frombuffer(self._ffi.buffer(logits, self._vocab * 4), np.float32).argmax())


def play(sequences: Sequences, bodies: Sequence[dict[str, Any]]) -> list[list[float]]:
    """When the tokens of each body came; all at once, to the end of the longest."""
    sequences.clear()
    times: list[list[float]] = []
    last = []
    for number, body in enumerate(bodies):
        last.append(sequences.start(number, body["prompt"]))
        times.append([time.perf_counter()])
    while rows := [
        (last[number], len(body["prompt"]) + len(times[number]) - 1, number)
        for number, body in enumerate(bodies)
        if len(times[number]) < body["max_tokens"]
    ]:
        tokens, now = sequences.step(rows), time.perf_counter()
        for (_, _, number), token in zip(rows, tokens, strict=True):
            last[number] = token
            times[number].append(now)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a plan in llama.cpp, in process.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    asked = parser.parse_args()
    plan = json.loads(asked.plan.read_text())
    bodies = [ask["body"] for ask in plan["asks"]]
    longest = max(len(body["prompt"]) + body["max_tokens"] for body in bodies)
    sequences = Sequences(asked.model, plan["users"], longest)
    play(sequences, [{**bodies[0], "max_tokens": 2}])  # to warm up
    answers, start = [], time.perf_counter()
    for first in range(0, len(bodies), plan["users"]):
        wave, sent = bodies[first : first + plan["users"]], time.perf_counter()
        for body, times in zip(wave, play(sequences, wave), strict=True):
            answers.append(_answer(body, sent - start, [each - start for each in times]))
    result = {"cpu_s": 0.0, "answers": answers}  # nobody stands between asker and answerer
    (asked.out / "answers.json").write_text(json.dumps(result))


def _answer(body: dict[str, Any], sent: float, times: Sequence[float]) -> dict[str, Any]:
    """As the load generator writes it."""
    return {
        "sent_ms": 1e3 * sent,
        "first_token_ms": 1e3 * (times[0] - sent),
        "total_ms": 1e3 * (times[-1] - sent),
        "gaps_ms": [1e3 * gap for gap in np.diff(times)],
        "prompt_tokens": len(body["prompt"]),
        "tokens": len(times),
        "error": None,
    }


if __name__ == "__main__":
    main()
