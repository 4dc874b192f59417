"""From a row to token ids: the prompt to answer, and the texts whose likelihood is asked for.

The same code checks rows when an evaluation is taken in and asks them afterwards. Knows no subject.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import TemplateError

from adapters_store.evaluation.errors import RowRefused
from adapters_store.evaluation.metrics import check_row
from adapters_store.evaluation.rows import EvalRow
from server.evaluation.plan import Plan
from server.model.text import TextCodec


@dataclass(frozen=True, slots=True)
class Scored:
    """A text after a prompt: the tokens of both, of which those from `start` on are scored."""

    token_ids: tuple[int, ...]
    start: int

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids) - self.start


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked about one row. What no metric needs is None or empty."""

    prompt: tuple[int, ...] | None
    target: Scored | None
    choices: tuple[Scored, ...]


class RowReader:
    """Makes questions of rows, for one plan."""

    def __init__(self, plan: Plan, codec: TextCodec, max_model_len: int) -> None:
        self._plan, self._codec, self._max_model_len = plan, codec, max_model_len

    def questions(self, row: EvalRow, number: int) -> Questions:
        """What to ask about row `number`, from 1. Raises RowRefused, which names the field."""
        check_row(row, number, self._plan.table)
        needs = self._plan.needs
        prompt = self._prompt(row, number)
        if "answer" in needs:
            self._check_room(len(prompt), self._plan.generation["max_tokens"], number)
        return Questions(
            prompt=tuple(prompt) if "answer" in needs else None,
            target=next(self._scored(row, prompt, number, ("target",)))
            if "target" in needs
            else None,
            choices=tuple(self._scored(row, prompt, number, self._choice_fields(row)))
            if "choices" in needs
            else (),
        )

    @staticmethod
    def _choice_fields(row: EvalRow) -> tuple[str, ...]:
        return tuple(f"choices[{index}]" for index in range(len(row.choices)))

    def _prompt(self, row: EvalRow, number: int) -> list[int]:
        try:
            found = self._encoded(row.prompt)
        except (TemplateError, ValueError) as error:
            raise RowRefused(number, "prompt", f"the chat template says: {error}") from error
        if not found:
            raise RowRefused(number, "prompt", "has no tokens")
        return found

    def _encoded(self, prompt: str) -> list[int]:
        if self._plan.prompt_mode == "raw":
            return self._codec.encode(prompt, add_special_tokens=True)
        message = {"role": "user", "content": prompt}
        return self._codec.encode_chat([message], add_generation_prompt=True)

    def _scored(
        self, row: EvalRow, prompt: list[int], number: int, fields: tuple[str, ...]
    ) -> Iterator[Scored]:
        texts = (row.targets[0],) if fields == ("target",) else row.choices
        for field, text in zip(fields, texts, strict=True):
            found = self._after(row.prompt, prompt, text)
            if found.num_tokens == 0:
                raise RowRefused(number, field, "has no tokens")
            if found.start == 0:
                raise RowRefused(number, "prompt", "has no token before the answer's")
            self._check_room(len(prompt), found.num_tokens, number)
            yield found

    def _after(self, text_before: str, prompt: list[int], text: str) -> Scored:
        """A token that begins in the prompt and ends in the text is the text's."""
        if self._plan.prompt_mode == "chat":
            added = self._codec.encode(text, add_special_tokens=False)
            return Scored((*prompt, *added), len(prompt))
        whole = self._codec.encode(text_before + text, add_special_tokens=True)
        pairs = enumerate(zip(prompt, whole, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(whole)))
        return Scored(tuple(whole), shared)

    def _check_room(self, prompt: int, after: int, number: int) -> None:
        if prompt + after > self._max_model_len:
            raise RowRefused(
                number,
                "prompt",
                f"has {prompt} tokens; with {after} after it that is more than the context of "
                f"{self._max_model_len}",
            )
