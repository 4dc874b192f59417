"""PEFT as a server: the least that serves many LoRAs on one base over HTTP with PEFT's mixed batch.

    python -m loadtests.rivals.peft_server --base DIR --port PORT [--adapters DIR] [--batch 32]

Takes what is waiting as one batch, computes it to its end with transformers' cache and PEFT's
`adapter_names` (each row its own adapter), streams tokens as they come, takes the next batch.
Answers the part of `/v1/completions` that the benchmark asks for. Nothing of this product is used.
"""

import argparse
import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer, Phi3ForCausalLM

BASE, PEFT_BASE = "base", "__base__"  # its name in requests, and in PEFT's mixed batch


class Request:
    """One row: what was asked, and where its tokens go (None: the end)."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.prompt: list[int] = body["prompt"]
        self.adapter = PEFT_BASE if body["model"] == BASE else str(body["model"])
        self.left = int(body["max_tokens"])
        self._loop = asyncio.get_running_loop()
        self._tokens: asyncio.Queue[int | None] = asyncio.Queue()

    def put(self, token: int | None) -> None:
        """From the thread that computes."""
        self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    async def tokens(self) -> AsyncIterator[int]:
        while (token := await self._tokens.get()) is not None:
            yield token


class Model:
    """The base with its adapters, computing batches in the thread that calls `serve`."""

    def __init__(self, base: Path, adapters: Sequence[Path], batch: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.waiting: SimpleQueue[Request] = SimpleQueue()
        self._batch = batch
        model = Phi3ForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._adapted = bool(adapters)
        for index, folder in enumerate(adapters):
            if index == 0:
                model = PeftModel.from_pretrained(model, folder, adapter_name=folder.name)
            else:
                model.load_adapter(folder, adapter_name=folder.name)
        self._model = model.eval()

    @torch.inference_mode()
    def serve(self) -> None:
        """Batch after batch, for ever."""
        while True:
            rows = [self.waiting.get(), *self._also_waiting()]
            for tokens in self._generated(rows):
                for row, token in zip(rows, tokens, strict=True):
                    _give(row, token)

    def _also_waiting(self) -> Iterator[Request]:
        try:
            for _ in range(self._batch - 1):
                yield self.waiting.get_nowait()
        except Empty:
            return

    def _generated(self, rows: Sequence[Request]) -> Iterator[list[int]]:
        """The tokens of all rows, step by step, until the longest is done; prompts padded left."""
        ids, mask = _padded([row.prompt for row in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = None
        for _ in range(max(row.left for row in rows)):
            out = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **self._mixed(rows),
            )
            cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1
            yield ids[:, 0].tolist()

    def _mixed(self, rows: Sequence[Request]) -> dict[str, list[str]]:
        return {"adapter_names": [row.adapter for row in rows]} if self._adapted else {}


def _give(row: Request, token: int) -> None:
    if row.left:
        row.left -= 1
        row.put(token)
        if not row.left:
            row.put(None)


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both [rows, longest]."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    missing = torch.tensor([[longest - len(prompt)] for prompt in prompts])
    return ids, (torch.arange(longest) >= missing).long()


def application(model: Model) -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "ready"

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> StreamingResponse:
        request = Request(body)
        model.waiting.put(request)
        return StreamingResponse(_events(model, request), media_type="text/event-stream")

    return app


async def _events(model: Model, request: Request) -> AsyncIterator[str]:
    count = 0
    async for token in request.tokens():
        count += 1
        text = model.tokenizer.decode([token])
        yield f"data: {json.dumps({'choices': [{'index': 0, 'text': text}]})}\n\n"
    yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': count}})}\n\n"
    yield "data: [DONE]\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve LoRAs with PEFT's mixed batch.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, help="a directory of PEFT directories")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    folders = sorted(asked.adapters.iterdir()) if asked.adapters else []
    model = Model(asked.base, folders, asked.batch)
    threading.Thread(target=model.serve, daemon=True).start()
    uvicorn.run(application(model), port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
