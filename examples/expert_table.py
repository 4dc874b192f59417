"""The shipped adapters: of which task each is made, and how.

Data only; `experts.py` trains, measures and writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from examples.runs import Training

ELEMENT: Mapping[str, Any] = {"method": "mcs", "keep_ratio": 0.01}
# Twice the entries in as many bytes: a tile has one index.
BLOCK: Mapping[str, Any] = {"method": "mcs", "keep_ratio": 0.02, "form": "16x16"}
ROW_BLOCK: Mapping[str, Any] = {"method": "mcs", "keep_ratio": 0.02, "form": "1x16"}
LR = 3e-3  # better than 1e-3 for ELEMENT on validation rows of number_to_words (comparison/)


@dataclass(frozen=True, slots=True)
class Expert:
    """One adapter, of a held-in task of `intarsia tasks build` whose rows may be passed on."""

    title: str
    task: str
    steps: int  # chosen once, by how hard the task is
    method: Mapping[str, Any]

    @property
    def training(self) -> Training:
        return Training(steps=self.steps, data=(self.task,), lr=LR, fields=self.method)


EXPERTS: Mapping[str, Expert] = {
    "antonym": Expert(
        "Opposites of English words",
        "antonym",
        160,
        ELEMENT,
    ),
    "country-facts": Expert(
        "Capitals, currencies, codes and continents of countries",
        "country_facts",
        160,
        ELEMENT,
    ),
    "date-iso": Expert(
        "Dates as YYYY-MM-DD",
        "date_normalisation",
        100,
        ELEMENT,
    ),
    "hypernym": Expert(
        "What kind of thing a thing is",
        "hypernym",
        120,
        ROW_BLOCK,
    ),
    "number-words": Expert(
        "Numbers in words",
        "number_to_words",
        200,
        ELEMENT,
    ),
    "question-type": Expert(
        "What kind of answer a question needs",
        "question_type",
        120,
        ELEMENT,
    ),
    "sentiment-yelp": Expert(
        "Is a restaurant review positive or negative?",
        "sentiment_yelp",
        100,
        ELEMENT,
    ),
    "sms-spam": Expert(
        "Is a text message spam?",
        "sms_spam",
        100,
        BLOCK,
    ),
    "verb-forms": Expert(
        "Forms of English verbs",
        "verb_forms",
        200,
        ELEMENT,
    ),
}
