"""The other side of the matrix: PEFT's adapters in transformers' own model, switched in a loop.

    python -m loadtests.rivals.peft_matrix --base DIR --adapter NAME=DIR --rows TASK=FILE --out FILE

Each adapter is merged into the weights for its turn, which is PEFT's fastest way. Writes what each
subject answered to each row, and the seconds of it all. Nothing of this product takes part: prompts
go through transformers' chat template, batches are padded on the left.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import AutoTokenizer, Phi3ForCausalLM

BASE = "base"


def main() -> None:
    asked = _arguments()
    tokenizer = AutoTokenizer.from_pretrained(asked.base, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = _adapted(asked.base, dict(each.split("=", 1) for each in asked.adapter))
    tasks = {name: _prompts(Path(file)) for name, file in (r.split("=", 1) for r in asked.rows)}
    subjects = [BASE, *model.peft_config]
    answers: dict[str, dict[str, list[str]]] = {subject: {} for subject in subjects}
    started = time.perf_counter()
    with torch.inference_mode(), tqdm(total=len(subjects) * len(tasks), desc="PEFT") as bar:
        for subject in subjects:
            with _turn_of(model, subject):
                for name, prompts in tasks.items():
                    answers[subject][name] = [*_answers(model, tokenizer, prompts, asked)]
                    bar.update()
    seconds = time.perf_counter() - started
    asked.out.write_text(json.dumps({"seconds": seconds, "answers": answers}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generate with PEFT's adapters, one by one.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--rows", action="append", required=True, metavar="TASK=FILE")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def _adapted(base: Path, adapters: dict[str, str]) -> PeftModel:
    model = Phi3ForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    (first, folder), *others = adapters.items()
    adapted: PeftModel = PeftModel.from_pretrained(model, folder, adapter_name=first)
    for name, folder in others:
        adapted.load_adapter(folder, adapter_name=name)
    return adapted.eval()


@contextmanager
def _turn_of(model: PeftModel, subject: str) -> Iterator[None]:
    """Within, the weights are the subject's."""
    if subject == BASE:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(subject)
    model.merge_adapter([subject])
    yield
    model.unmerge_adapter()


def _prompts(file: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in file.read_text().splitlines()]


def _answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], asked: argparse.Namespace
) -> Iterator[str]:
    for first in range(0, len(prompts), asked.batch):
        turns = [[{"role": "user", "content": p}] for p in prompts[first : first + asked.batch]]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            **batch,
            max_new_tokens=asked.max_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = out[:, batch["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(new, skip_special_tokens=True)


if __name__ == "__main__":
    main()
