"""Measure what the shipped adapters gain: exact match of base and adapter on 200 unseen rows each.

    python -m examples.measure

Independent of this product's engine: the shipped entries are put into PEFT's SHiRA layers, and
transformers generates, greedily. Writes `results.json`, which the README quotes.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, ShiraConfig, get_peft_model, set_peft_model_state_dict
from tqdm import tqdm
from transformers import AutoTokenizer, Phi3ForCausalLM

from adapters_store.adapter import ElementDelta, SparseAdapter
from adapters_store.files import read
from examples.batches import encode_prompt
from examples.publish import ADAPTERS
from examples.tasks import SEED, TASKS, Row, load
from server.model.demo_base import ensure_demo_base

RESULTS = Path(__file__).parent / "results.json"
DATA_DIR = Path("data")
ROWS_PER_BATCH = 20
MAX_NEW_TOKENS = 32


def with_adapter(model: Any, adapter: SparseAdapter) -> PeftModel:
    """`model` with PEFT's SHiRA layers that hold the entries of `adapter`."""
    deltas = [delta for delta in adapter.deltas if isinstance(delta, ElementDelta)]
    assert len(deltas) == len(adapter.deltas)
    (rank,) = {delta.nnz // sum(delta.shape) for delta in deltas}
    config = ShiraConfig(r=rank, target_modules=list(adapter.layers), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    state = {}
    for delta in deltas:
        rows, columns = delta.indices // delta.shape[1], delta.indices % delta.shape[1]
        prefix = f"base_model.model.{delta.layer}"
        state[f"{prefix}.shira_weight"] = delta.values
        state[f"{prefix}.shira_indices"] = torch.stack([rows, columns])
    set_peft_model_state_dict(adapted, state)
    return adapted


def answers(model: Any, tokenizer: Any, rows: Sequence[Row], title: str) -> Iterator[str]:
    """The greedy answer to every row's prompt."""
    for first in tqdm(range(0, len(rows), ROWS_PER_BATCH), desc=title, unit="batch"):
        prompts = [encode_prompt(tokenizer, row.prompt) for row in rows[first:][:ROWS_PER_BATCH]]
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(new_tokens, skip_special_tokens=True)


def score(model: Any, tokenizer: Any, rows: Sequence[Row], title: str) -> dict[str, float]:
    """Shares of right answers: exactly the target, and the target anywhere in any case."""
    found = [answer.strip() for answer in answers(model, tokenizer, rows, title)]
    pairs = list(zip(found, (row.target for row in rows), strict=True))
    exact = sum(answer == target for answer, target in pairs)
    contained = sum(target.casefold() in answer.casefold() for answer, target in pairs)
    return {"exact_match": exact / len(rows), "contains_answer": contained / len(rows)}


def measure(name: str, base: Path) -> dict[str, Any]:
    """Base and adapter of the task `name` on its unseen rows."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = Phi3ForCausalLM.from_pretrained(base)
    rows = load(name).test
    adapter = read(ADAPTERS / f"{name}.safetensors")
    return {
        "rows": len(rows),
        "split_seed": SEED,
        "adapter": adapter.digest,
        "bytes": (ADAPTERS / f"{name}.safetensors").stat().st_size,
        "base_scores": score(model, tokenizer, rows, f"{name}, base"),
        "adapter_scores": score(
            with_adapter(model, adapter).merge_and_unload(), tokenizer, rows, f"{name}, adapter"
        ),
        "command": f"python -m examples.measure {name}",
    }


def table(results: Mapping[str, Any]) -> str:
    """The results as the Markdown table of the README."""
    lines = [
        "| adapter | exact match: base | adapter | answer contained: base | adapter | bytes |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        shares = [
            f"{result[side][metric]:.1%}"
            for metric in ("exact_match", "contains_answer")
            for side in ("base_scores", "adapter_scores")
        ]
        lines.append(f"| `{name}` | {' | '.join(shares)} | {result['bytes']:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the example adapters.")
    parser.add_argument("names", nargs="*", default=list(TASKS), metavar="TASK")
    base = ensure_demo_base(DATA_DIR)
    for name in parser.parse_args().names:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = measure(name, base)
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    print(table(json.loads(RESULTS.read_text())), end="")


if __name__ == "__main__":
    main()
