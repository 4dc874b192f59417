"""Rows of prompt and target, as token ids and as batches of which only answers count.

A prompt is tokenized as it is when it is served: raw (no template, no first token) or through the
chat template. Knows no model.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters_store.training.failures import DataRefused

Prompting = Literal["raw", "chat"]

LEAST_SAVED = 32  # tokens that a batch must save for its shared ones to have a pass of their own


@dataclass(frozen=True, slots=True)
class Row:
    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row in token ids; the answer ends with the end of text unless it was cut."""

    prompt: list[int]
    answer: list[int]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON lines file or of a data set saved by Hugging Face `datasets`.

    Raises DataRefused, naming the first row that is none.
    """
    rows = _saved_dataset(path) if path.is_dir() else _json_lines(path)
    found = [_row(path, place, fields) for place, fields in enumerate(rows, start=1)]
    if not found:
        raise DataRefused(path, "there are no rows")
    return found


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _parsed(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise DataRefused(path, str(error)) from error


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataRefused(path, f"row {number}: {error}") from error


def _saved_dataset(path: Path) -> Iterator[Any]:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataRefused(path, "directories want the package `datasets`") from error
    try:
        found = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataRefused(path, f"not saved by datasets: {error}") from error
    yield from found


def _row(path: Path, place: int, fields: Any) -> Row:
    match fields:
        case {"prompt": str(prompt), "target": str(target)} if prompt and target:
            return Row(prompt, target)
    raise DataRefused(path, f"row {place}: wants the texts prompt and target")


def rows_digest(rows: Sequence[Row]) -> str:
    """`sha256:<hex>` of the rows in their order: what a run was trained on."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(json.dumps([row.prompt, row.target]).encode() + b"\n")
    return f"sha256:{hasher.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Encoder:
    """How rows become token ids."""

    tokenizer: Any
    prompting: Prompting
    max_prompt_tokens: int
    max_answer_tokens: int

    def __call__(self, row: Row) -> Encoded:
        """Prompts are cut from the left, answers from the right."""
        text = self.prompt_text(row.prompt)
        prompt = self._ids(text)
        answer = self._answer(text, prompt, self.answer_text(row))
        answer = [*answer, self.tokenizer.eos_token_id][: self.max_answer_tokens]
        return Encoded(prompt[-self.max_prompt_tokens :], answer)

    def prompt_text(self, prompt: str) -> str:
        """The text that is served for `prompt`."""
        if self.prompting == "raw":
            return prompt
        turn = [{"role": "user", "content": prompt}]
        text: str = self.tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
        return text

    def answer_text(self, row: Row) -> str:
        """The target, after a space where a raw prompt leaves that to it."""
        ends = row.prompt[-1:] in (" ", "\n") or row.target[:1] in (" ", "\n")
        return row.target if self.prompting == "chat" or ends else f" {row.target}"

    def _answer(self, text: str, prompt: list[int], target: str) -> list[int]:
        """The answer's tokens after the prompt's. Tokenized together with it, since a tokenizer
        may treat the start of a text in a way of its own; alone if a token would span both.
        """
        together = self._ids(text + target)
        if together[: len(prompt)] == prompt:
            return together[len(prompt) :]
        return self._ids(target)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def collate(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Rows as a batch. Symbols: B rows, S tokens, A answer tokens of all rows.

    `input_ids` and `attention_mask` `[B, S]`, padded on the right; `row` and `column` `[A]`: the
    place before each answer token, in order; `target` `[A]`: the token itself; `shared`: how many
    first columns are one for all rows and worth computing once, a number.
    """
    inputs = [torch.tensor(each.prompt + each.answer[:-1]) for each in rows]
    places = [
        (row, len(each.prompt) - 1 + i)
        for row, each in enumerate(rows)
        for i in range(len(each.answer))
    ]
    row, column = torch.tensor(places).T
    return {
        "input_ids": pad_sequence(inputs, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in inputs], batch_first=True),
        "row": row,
        "column": column,
        "target": torch.tensor([token for each in rows for token in each.answer]),
        "shared": torch.tensor(count_shared([each.prompt for each in rows])),
    }


def count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all `prompts` share, 0 if that is too few to be worth a pass.

    A last token is left to each prompt: the answer begins there.
    """
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    count = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return count if count * (len(prompts) - 1) >= LEAST_SAVED else 0
