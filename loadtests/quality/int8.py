"""What int8 costs: distances to fp32 of our variants, and of llama.cpp's Q8_0, on the same texts.

    python -m loadtests.quality.int8 --base DIR --text README.md --rows rows.jsonl \\
        --llama-python .rivals/llama-batch/bin/python --gguf F32.gguf Q8_0.gguf

The GGUF files have the base's weights (`loadtests.rivals.gguf_files`). Every token is
teacher-forced. The last line is JSON.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from loadtests.quality.distances import Distances
from loadtests.quality.simulated import Grouping, SimulatedKernels
from loadtests.quality.texts import chats, pieces
from server.kernels.cpu.int8.kernels import Int8CpuKernels
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import AttentionBatch, Kernels
from server.model.checkpoint import Checkpoint, open_checkpoint
from server.model.kv_cache import allocate
from server.model.load import load_model
from server.model.phi3 import Phi3
from server.model.step import Step

PAGE = 16
LLAMA = Path(__file__).with_name("llama_logits.py")
Texts = Sequence[Sequence[int]]
Side = Callable[[], Iterator[Tensor]]  # the logits of one text after the other


def main() -> None:
    given = _arguments()
    checkpoint = open_checkpoint(given.base)
    texts = [
        *list(pieces(checkpoint.tokenizer, given.text))[: given.pieces],
        *list(chats(checkpoint.tokenizer, given.rows))[: given.chats],
    ]
    sides: dict[str, Side] = {
        name: partial(_ours, checkpoint, texts, make) for name, make in _variants(checkpoint)
    }
    with tempfile.TemporaryDirectory() as folder:
        for file in given.gguf:
            place = Path(folder, file.stem)
            sides[file.stem] = partial(_theirs, texts, file, place, given.llama_python)
        chosen = {name: sides[name] for name in given.sides or sides}
        _print(_compare(texts, partial(_ours, checkpoint, texts, CpuKernels), chosen))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--rows", type=Path, nargs="*", default=[])
    parser.add_argument("--pieces", type=int, default=12)
    parser.add_argument("--chats", type=int, default=40)
    parser.add_argument("--llama-python", default=".rivals/llama-batch/bin/python")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[])
    parser.add_argument("--sides", nargs="*", help="only these, by name; else all")
    return parser.parse_args()


def _variants(checkpoint: Checkpoint) -> Iterator[tuple[str, Callable[[], Kernels]]]:
    shapes = checkpoint.config.linear_shapes()
    head, down = shapes["lm_head"], shapes["model.layers.0.mlp.down_proj"]
    groupings = {
        "groups of 32": Grouping(32),
        "groups of 32, lm_head in fp32": Grouping(32, [head]),
        "groups of 32, down_proj in fp32": Grouping(32, [down]),
        "groups of 64": Grouping(64),
        "groups of 64, down_proj in fp32": Grouping(64, [down]),
        "weights only, groups of 32": Grouping(32, activations=False),
    }
    yield "served", Int8CpuKernels
    for name, grouping in groupings.items():
        yield name, partial(SimulatedKernels, grouping)


def _compare(texts: Texts, reference: Side, sides: dict[str, Side]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    all_expected = list(reference())
    for name, side in {"fp32": lambda: iter(all_expected), **sides}.items():
        distances = Distances()
        for text, expected, logits in zip(texts, all_expected, side(), strict=True):
            distances.add(expected, logits, torch.tensor(text))
        found[name] = distances.summary()
        print(name, found[name], flush=True)
    return found


def _ours(checkpoint: Checkpoint, texts: Texts, make: Callable[[], Kernels]) -> Iterator[Tensor]:
    model = load_model(checkpoint, torch.float32, "cpu", make())
    for text in texts:
        yield _logits(model, torch.tensor(text))


@torch.inference_mode()
def _logits(model: Phi3, tokens: Tensor) -> Tensor:
    count, positions = len(tokens), torch.arange(len(tokens))
    pages = -(-count // PAGE)
    cache = allocate(model.config, pages, PAGE, torch.float32, "cpu")
    attention = AttentionBatch([0, count], [count], torch.arange(pages)[None], positions)
    regimes = torch.full((count,), model.config.rope.regime(count))
    return model.logits(
        model.forward(Step(tokens, positions, regimes, attention, None), cache), None
    )


def _theirs(texts: Texts, weights: Path, folder: Path, python: str) -> Iterator[Tensor]:
    folder.mkdir()
    asked = folder / "texts.json"
    asked.write_text(json.dumps(texts))
    subprocess.run([python, LLAMA, weights, asked, folder], check=True)
    for number in range(len(texts)):
        yield torch.from_numpy(np.load(folder / f"{number}.npy"))


def _print(found: dict[str, dict[str, float]]) -> None:
    table = Table("side", *next(iter(found.values())))
    for name, own in found.items():
        table.add_row(name, *(f"{number:.5g}" for number in own.values()))
    Console(width=120).print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
