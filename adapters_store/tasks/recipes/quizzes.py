"""Questions out of quizzes: those of bsdgames, and chatterbot-corpus's trivia.

Capitals of countries and opposites are left out: the held-in tasks country_facts and antonym ask
the same questions.
"""

import re
from collections.abc import Iterator, Mapping

from adapters_store.tasks.questions import Question, same_text, tidy

FOLDER = "usr/share/games/bsdgames/quiz/"
TEMPLATES = {
    "province": "What is the capital of the Canadian province of {}?",
    "state": "What is the capital of the US state of {}?",
    "babies": "Which animal's young is called a {}?",
    "collectives": "What is a group of {} called?",
    "elements": "Which chemical element has the symbol {}?",
    "flowers": "In the language of flowers, what does {} mean?",
    "latin": 'What does the Latin "{}" mean in English?',
    "murders": "Who killed {}?",
    "sexes": 'What is the feminine of "{}"?',
    "pres": "Who became president of the USA after {}?",
    "sov": "Who ruled England after {}?",
    "inca": "Which Inca ruled after {}?",
    "locomotive": "What is a {} steam locomotive called?",
    "midearth": "What is the capital of {} in Middle-earth?",
    "chinese": "In the Chinese zodiac, which year follows that of the {}?",
}
ANSWERS = {"elements": 3, "pres": 3, "sov": 2}  # column; else the second
TRIVIA = "chatterbot_corpus/data/english/"
TRIVIA_FILES = ("trivia", "history", "science")


def read(members: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Prompts and answers of both packages."""
    return [*_quizzes(members), *_trivia(members)]


def _quizzes(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for name, template in TEMPLATES.items():
        text = members[FOLDER + name].decode("latin-1").replace("\\\n", "")
        for line in text.splitlines():
            fields = [first_reading(field) for field in line.split(":")]
            answer = fields[ANSWERS.get(name, 1)] if len(fields) > ANSWERS.get(name, 1) else ""
            if fields[0] and answer:
                yield template.format(fields[0]), answer


def first_reading(pattern: str) -> str:
    """The first text that a pattern of quiz(6) stands for: of `a|b` `a`; of `{a}` `a`."""
    previous = None
    text = pattern
    while text != previous:
        previous = text
        text = re.sub(r"\[([^][{}]*)\]", lambda found: found[1].split("|")[0], text)
        text = re.sub(r"\{([^][{}]*)\}", lambda found: found[1].split("|")[0], text)
    return tidy(text.split("|")[0])


def _trivia(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    import yaml

    for name in TRIVIA_FILES:
        document = yaml.safe_load(members[f"{TRIVIA}{name}.yml"])
        for question, *answers in document["conversations"]:
            if answers and "capital of" not in question:
                yield tidy(str(question)), tidy(str(answers[0]))


def classic_quiz(pairs: list[tuple[str, str]]) -> Iterator[Question]:
    for prompt, answer in pairs:
        yield Question(same_text(prompt), prompt, answer)
