"""The tasks' rows, made from the examples' test rows, as JSONL files where the harness runs."""

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
# As the demo base's chat template writes it; the harness sends it as it stands.
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
SENTIMENTS = ("positive", "negative")
NEAR_DAYS = (0, 1, 31)  # the right date, and dates that look like it

Row = Mapping[str, Any]


def write_rows(directory: Path, count: int) -> None:
    """`directory/<name>.jsonl` with the first `count` rows of every task."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (source, make) in TASKS.items():
        lines = (EXAMPLES / f"{source}.test.jsonl").read_text().splitlines()[:count]
        rows = (make(index, json.loads(line)) for index, line in enumerate(lines))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(text)


def _number(index: int, row: Row) -> Row:
    return {"prompt": CHAT.format(row["prompt"]), "target": row["target"]}


def _sentiment(index: int, row: Row) -> Row:
    label = SENTIMENTS.index(row["target"])
    return {"prompt": CHAT.format(row["prompt"]), "choices": SENTIMENTS, "label": label}


def _date(index: int, row: Row) -> Row:
    """The right choice's place goes round. (A bare date would be read as one, not as text.)"""
    right, turn = date.fromisoformat(row["target"]), index % len(NEAR_DAYS)
    days = [*NEAR_DAYS[turn:], *NEAR_DAYS[:turn]]
    choices = [f"{right + timedelta(day)}<|im_end|>" for day in days]
    return {"prompt": CHAT.format(row["prompt"]), "choices": choices, "label": days.index(0)}


def _review(index: int, row: Row) -> Row:
    return {"text": row["prompt"].partition("\n")[2]}


TASKS: Mapping[str, tuple[str, Callable[[int, Row], Row]]] = {
    "numbers": ("number-words", _number),
    "sentiment": ("sentiment-yelp", _sentiment),
    "dates": ("date-iso", _date),
    "reviews": ("sentiment-yelp", _review),
}
