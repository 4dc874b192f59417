"""From questions to rows: length filter, one row per prompt, balanced answers, cap, split.

The order of these steps is the contract: rows are told apart before they are split, so that no
prompt and no group is on two sides. Knows no task.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from adapters_store.tasks.questions import Question, digest_number, shuffled
from adapters_store.tasks.rows import SPLITS, Row, Split

MAX_PROMPT_CHARS = 440  # about 110 tokens
MAX_TARGET_CHARS = 160  # about 40 tokens
PERCENT_VALIDATION, PERCENT_TEST = 10, 10


def split_rows(
    task: str, questions: Iterable[Question], *, balanced: bool, cap: int
) -> Mapping[Split, Sequence[Row]]:
    """At most `cap` rows on all sides together; on each side in a fixed random order."""
    distinct = unique(filter(short, questions))
    kept = shuffled(distinct, salt="order", key=lambda question: question.prompt)
    if balanced:
        kept = equally_many(kept)
    sides: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    for question in kept[:cap]:
        sides[side(question.group)].append(Row(task, question.prompt, question.target))
    return sides


def short(question: Question) -> bool:
    """Whether prompt and target are there, and short enough for a small model's context."""
    prompt, target = len(question.prompt), len(question.target)
    return 0 < prompt <= MAX_PROMPT_CHARS and 0 < target <= MAX_TARGET_CHARS


def unique(questions: Iterable[Question]) -> list[Question]:
    """The first question of each prompt."""
    found: dict[str, Question] = {}
    for question in questions:
        found.setdefault(question.prompt, question)
    return list(found.values())


def equally_many(questions: Sequence[Question]) -> list[Question]:
    """As many questions of each target as the rarest one has, in the same order."""
    by_target: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_target[question.target].append(question)
    fewest = min(map(len, by_target.values()), default=0)
    kept = {question for same in by_target.values() for question in same[:fewest]}
    return [question for question in questions if question in kept]


def side(group: str) -> Split:
    """Where a group lies, in every task: tenths for validation and test, the rest for training."""
    percent = digest_number("side", group) % 100
    if percent < PERCENT_TEST:
        return "test"
    return "validation" if percent < PERCENT_TEST + PERCENT_VALIDATION else "train"
