"""The data of the example adapters: rows of prompt and target, built from public packages.

Deterministic: the same package versions give the same bytes. A group (a date, a number, a
sentence) is on one side of the split only. Knows nothing of models.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

DATA = Path(__file__).parent / "data"
SEED = 20240501
NUM_TEST = 200
REVIEWS = Path("node_modules/sentiment/test/fixtures/yelp.json")  # npm install sentiment@5.0.2
DATE_FORMATS = (
    "MMMM d, y",
    "MMM d, y",
    "d MMMM y",
    "d MMM y",
    "EEEE, MMMM d, y",
    "EEE, d MMM y",
    "M/d/y",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its only right answer."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task: how its rows are made, whose data it is, and how many rows are trained on."""

    title: str
    template: str  # of the prompt; {} is what differs between rows
    source: str
    licence: str
    num_train: int
    pairs: Callable[[random.Random], Iterable[tuple[str, str]]]  # what fills {} -> target


@dataclass(frozen=True, slots=True)
class Split:
    """The two sides of a task's rows."""

    train: Sequence[Row]
    test: Sequence[Row]


def reviews(_: random.Random) -> Iterable[tuple[str, str]]:
    """Restaurant reviews from the npm package's fixture, installed in the current directory."""
    for row in json.loads(REVIEWS.read_text(encoding="utf-8")):
        if row["class"] is not None:
            yield " ".join(row["text"].split()), "positive" if row["class"] else "negative"


def dates(rng: random.Random) -> Iterable[tuple[str, str]]:
    """Days between 1500 and 2099, each written in one of seven ways."""
    from babel.dates import format_date

    first = date(1500, 1, 1)
    for offset in rng.sample(range((date(2100, 1, 1) - first).days), 3000):
        day = first + timedelta(days=offset)
        yield format_date(day, rng.choice(DATE_FORMATS), locale="en"), day.isoformat()


def numbers(rng: random.Random) -> Iterable[tuple[str, str]]:
    """Numbers below ten thousand in British English words."""
    from num2words import num2words

    for number in rng.sample(range(10_000), 4000):
        yield str(number), num2words(number)


def verbs(rng: random.Random) -> Iterable[tuple[str, str]]:
    """Verbs of the lexicon's everyday length, each in one of its forms."""
    lexicon = files("lemminflect") / "resources" / "infl_lu.csv.gz"
    lines = gzip.decompress(lexicon.read_bytes()).decode().splitlines()
    verbs = [line.split(",") for line in lines if re.match("[a-z]{3,8},verb,[a-z]+,", line)]
    for word, _, past, participle, present, third in rng.sample(verbs, 2800):
        forms = {
            "past tense": past,
            "past participle": participle or past,  # left out where both are the same
            "present participle": present,
            "third person singular": third,
        }
        form = rng.choice([name for name, spellings in forms.items() if spellings])
        yield f'{form} of the verb "{word}"', forms[form].split("/")[0]


TASKS = {
    "sentiment-yelp": Task(
        title="Is a restaurant review positive or negative?",
        template="Is this restaurant review sentence positive or negative?\n{}",
        source="npm sentiment 5.0.2, fixture yelp.json: UCI Sentiment Labelled Sentences (2015)",
        licence="CC BY 4.0 (Kotzias et al., UCI Machine Learning Repository)",
        num_train=790,
        pairs=reviews,
    ),
    "date-iso": Task(
        title="Dates as YYYY-MM-DD",
        template="Convert the date to YYYY-MM-DD: {}",
        source="babel 2.18.0, format_date over CLDR data",
        licence="Unicode-3.0 (CLDR); generated",
        num_train=2400,
        pairs=dates,
    ),
    "number-words": Task(
        title="Numbers in words",
        template="Write {} in words.",
        source="num2words 0.5.14",
        licence="generated facts, no licence needed",
        num_train=2400,
        pairs=numbers,
    ),
    "verb-forms": Task(
        title="Forms of English verbs",
        template="Give the {}.",
        source="lemminflect 0.2.3, from the SPECIALIST Lexicon of the NLM",
        licence="MIT (lemminflect); SPECIALIST Lexicon, free with attribution",
        num_train=2400,
        pairs=verbs,
    ),
}


def build(task: Task) -> Split:
    """Make the rows of `task`: one row per group, shuffled, the test side taken first."""
    rng = random.Random(SEED)
    rows = {group(filling): (filling, target) for filling, target in task.pairs(rng)}
    shuffled = [Row(task.template.format(filling), target) for filling, target in rows.values()]
    rng.shuffle(shuffled)
    return Split(train=shuffled[NUM_TEST : NUM_TEST + task.num_train], test=shuffled[:NUM_TEST])


def group(filling: str) -> str:
    """What makes two fillings the same question: their letters and digits."""
    return "".join(filter(str.isalnum, filling.casefold()))


def jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def sha256(rows: Sequence[Row]) -> str:
    return hashlib.sha256(jsonl(rows).encode()).hexdigest()


def load(name: str) -> Split:
    """The committed rows of the task `name`."""

    def rows(side: str) -> list[Row]:
        lines = (DATA / f"{name}.{side}.jsonl").read_text(encoding="utf-8").splitlines()
        return [Row(**json.loads(line)) for line in lines]

    return Split(train=rows("train"), test=rows("test"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the rows of the example tasks.")
    parser.add_argument("names", nargs="*", default=list(TASKS), metavar="TASK")
    for name in parser.parse_args().names:
        split = build(TASKS[name])
        for side, rows in (("train", split.train), ("test", split.test)):
            (DATA / f"{name}.{side}.jsonl").write_text(jsonl(rows), encoding="utf-8")
            print(f"{sha256(rows)}  {name}.{side}.jsonl  {len(rows)} rows")


if __name__ == "__main__":
    main()
