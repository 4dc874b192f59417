"""Questions made by rule: dates, and numbers in words."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta

from adapters_store.tasks.questions import Question, digest_number, shuffled

DATE = "Convert the date to YYYY-MM-DD: {}"
NUMBER = "Write {} in words."
DATE_PATTERNS = (
    "MMMM d, y",
    "MMM d, y",
    "d MMMM y",
    "d MMM y",
    "EEEE, MMMM d, y",
    "EEE, d MMM y",
    "M/d/y",
)
FIRST_DAY, LAST_DAY = date(1500, 1, 1), date(2099, 12, 31)
NUM_DATES = 6000
NUM_NUMBERS = 3556
MAX_NUMBER = 9999


def read_nothing(members: Mapping[str, bytes]) -> None:
    """These tasks need the library alone."""


def date_normalisation(_: None) -> Iterator[Question]:
    """Days of six centuries, each written in one of seven ways; the day is the group."""
    from babel.dates import format_date

    days = shuffled(range((LAST_DAY - FIRST_DAY).days + 1), salt="days")
    for offset in days[:NUM_DATES]:
        day = FIRST_DAY + timedelta(days=offset)
        pattern = DATE_PATTERNS[digest_number("pattern", day) % len(DATE_PATTERNS)]
        written = format_date(day, pattern, locale="en")
        yield Question(f"day:{day}", DATE.format(written), day.isoformat())


def number_to_words(_: None) -> Iterator[Question]:
    """Numbers of up to four digits in British English; the number is the group."""
    from num2words import num2words

    for number in shuffled(range(MAX_NUMBER + 1), salt="numbers")[:NUM_NUMBERS]:
        yield Question(f"number:{number}", NUMBER.format(number), num2words(number))
