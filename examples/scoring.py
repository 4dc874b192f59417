"""What a model with an adapter answers to unseen rows: Rouge-L and exact match.

    python -m examples.scoring --base DIR --rows antonym=FILE --out scores.json --adapter FILE

Independent of this product's engine: the change is added to the weights, transformers generates.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, Phi3ForCausalLM

from adapters_store.adapter import BiasDelta, SparseAdapter
from adapters_store.files import read
from adapters_store.training.answers import answers, rouge_l
from adapters_store.training.data import Encoder, Row, read_rows

ANSWERS = ".answers.jsonl"  # what was said to each row, beside the scores
ROWS_PER_BATCH = 20
MAX_PROMPT_TOKENS = 2048
MAX_ANSWER_TOKENS = 40  # as the longest target of the tasks


def add_to(model: Any, adapter: SparseAdapter) -> None:
    """Make `model` (fp32, of transformers, in the layout of the adapter) what it is adapted."""
    for delta in adapter.deltas:
        assert not isinstance(delta, BiasDelta), "training makes none"
        with torch.no_grad():
            model.get_submodule(delta.layer).weight += delta.dense()


def told(model: Any, tokenizer: Any, rows: Sequence[Row], title: str) -> Iterator[str]:
    """The greedy answer to each row's prompt, as one message through the chat template."""
    encoder = Encoder(tokenizer, "chat", MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS)
    for first in tqdm(range(0, len(rows), ROWS_PER_BATCH), title, disable=None):
        prompts = [encoder(row).prompt for row in rows[first : first + ROWS_PER_BATCH]]
        yield from answers(model, tokenizer, prompts, MAX_ANSWER_TOKENS, ROWS_PER_BATCH)


def scores(found: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Mean Rouge-L in percent, and shares of the answers that are exactly the target, or have it
    in them in any case.
    """
    pairs = [(answer, row.target) for answer, row in zip(found, rows, strict=True)]
    return {
        "rows": len(rows),
        "rouge_l": rouge_l(pairs),
        "exact_match": sum(answer == target for answer, target in pairs) / len(pairs),
        "contains_answer": sum(t.casefold() in a.casefold() for a, t in pairs) / len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Score an adapter, or the base, on rows.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--rows", action="append", required=True, metavar="TASK=FILE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, tokenizer = load(options.base)
    if options.adapter:
        add_to(model, read(options.adapter))
    found, said = {}, []
    for task, _, file in (each.partition("=") for each in options.rows):
        rows = read_rows(Path(file))
        texts = [*told(model, tokenizer, rows, task)]
        found[task] = scores(texts, rows)
        said += [asdict(row) | {"answer": text} for row, text in zip(rows, texts, strict=True)]
    options.out.with_suffix(ANSWERS).write_text("".join(json.dumps(e) + "\n" for e in said))
    partial = options.out.with_suffix(".partial")  # the scores come last, and whole
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(options.out)


def load(base: Path) -> tuple[Any, Any]:
    """The frozen model in fp32, and its tokenizer."""
    model = Phi3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(base)


if __name__ == "__main__":
    main()
