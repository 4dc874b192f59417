"""Questions out of Debian's dict packages: FreeDict word lists and the acronyms of V.E.R.A.

A `.dict.dz` file is gzip that can be entered anywhere; it is read whole. A headword is a group.
"""

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from adapters_store.tasks.questions import Question, tidy

FOLDER = "usr/share/dictd/"
SPANISH = "Translate to Spanish: {}"
FRENCH = "Translate this French word to English: {}"
ACRONYM = "Expand the computing abbreviation {}."
ACRONYM_IN_CONTEXT = "Expand the computing abbreviation {} (context: {})."
HEADWORD = re.compile(r"(?P<word>[^/\s][^/]*) /[^/]*/")
MAX_WORDS = 3  # of a translation
ACRONYM_WORD = re.compile("[A-Z]{2,}")
REMARK = re.compile(r"\s*[(\[{<][^()\[\]{}<>]*[)\]}>]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A headword and its first translation, or what it stands for. `context` may be empty."""

    word: str
    meaning: str
    context: str = ""


def read_spanish(members: Mapping[str, bytes]) -> list[Entry]:
    return _freedict(members, "freedict-eng-spa.dict.dz")


def read_french(members: Mapping[str, bytes]) -> list[Entry]:
    return _freedict(members, "freedict-fra-eng.dict.dz")


def _freedict(members: Mapping[str, bytes], name: str) -> list[Entry]:
    lines = gzip.decompress(members[FOLDER + name]).decode().splitlines()
    return [
        Entry(found["word"].strip(), _first_translation(below))
        for line, below in pairwise(lines)
        if (found := HEADWORD.match(line))
    ]


def _first_translation(line: str) -> str:
    without_number = re.sub(r"^\s*\d+\.\s*", "", line)
    return tidy(re.split("[,;]", REMARK.sub("", without_number))[0])


def english_to_spanish_word(entries: list[Entry]) -> Iterator[Question]:
    return _words(entries, SPANISH)


def french_to_english_word(entries: list[Entry]) -> Iterator[Question]:
    return _words(entries, FRENCH)


def _words(entries: list[Entry], template: str) -> Iterator[Question]:
    """Single words, and translations of a few words."""
    for entry in entries:
        if " " not in entry.word and 0 < len(entry.meaning.split()) <= MAX_WORDS:
            group = f"word:{entry.word.casefold()}"
            yield Question(group, template.format(entry.word), entry.meaning)


def read_acronyms(members: Mapping[str, bytes]) -> list[Entry]:
    """The entries of V.E.R.A.: `WORD`, and below it, indented, `meaning (context), "remark"`."""
    text = gzip.decompress(members[FOLDER + "vera.dict.dz"]).decode()
    found = re.findall(r"^(\S+)\n {7}(\S.*(?:\n\S.*|\n {7}\S.*)*)\n {7}$", text, re.MULTILINE)
    return [_acronym(word, tidy(meaning)) for word, meaning in found]


def _acronym(word: str, text: str) -> Entry:
    context = re.search(r"\(([^()]*)\)", text)
    meaning = REMARK.sub("", text).partition(', "')[0]
    return Entry(word, tidy(meaning), context[1] if context else "")


def acronym_expansion(entries: list[Entry]) -> Iterator[Question]:
    """The context stands in the prompt where the dictionary gives one. The acronym is the group."""
    for entry in entries:
        if ACRONYM_WORD.fullmatch(entry.word) and len(entry.meaning.split()) > 1:
            template = ACRONYM_IN_CONTEXT if entry.context else ACRONYM
            prompt = template.format(entry.word, entry.context)
            yield Question(f"acronym:{entry.word}", prompt, entry.meaning)
