"""Each recipe asks what it should about excerpts of its packages."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from task_sources import members_of, questions_of

from adapters_store.tasks.recipes import debian_index, dictionaries, labelled, quizzes, wordnet
from adapters_store.tasks.rows import Row
from adapters_store.tasks.table import TASKS, named
from adapters_store.tasks.task import Task

EXAMPLES = Path(__file__).parent / "data" / "examples.jsonl"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_recipe_asks_its_examples(task: Task[Any]) -> None:
    examples = [Row(**json.loads(line)) for line in EXAMPLES.read_text().splitlines()]
    expected = {row.prompt: row.target for row in examples if row.task == task.name}
    asked = {q.prompt: q.target for q in reversed(questions_of(task.name))}
    assert expected.items() <= asked.items()
    assert expected or task.name == "taxonomy_true_false"  # whose claims are drawn


def test_thirty_tasks_of_which_ten_are_held_out() -> None:
    assert Counter(task.role for task in TASKS) == {"held-in": 20, "held-out": 10}
    assert len({task.name for task in TASKS}) == 30


def test_repeated_questions_are_asked_once() -> None:
    (task,) = named(["question_type"])
    lines = task.read(members_of(task.packages))
    prompts = [question.prompt for question in questions_of("question_type")]
    assert len(lines) == 3 * len(prompts) == 3 * len(set(prompts))


def test_both_directions_of_opposites_are_one_group() -> None:
    groups = {q.prompt: q.group for q in reversed(questions_of("antonym"))}
    there, back = (f'What is the opposite of "{word}"?' for word in ("precede", "follow"))
    assert groups[there] == groups[back]


def test_forms_of_a_verb_are_one_group() -> None:
    groups = {q.group for q in questions_of("verb_forms") if '"flyte"' in q.prompt}
    assert groups == {"word:flyte"}


def test_misspellings_of_a_word_are_one_group_and_ambiguous_ones_left_out() -> None:
    questions = questions_of("spelling_correction")
    by_target = {(q.target, q.group) for q in questions}
    assert len(by_target) == len({q.target for q in questions})
    assert not [q for q in questions if "aache" in q.prompt or "clas" in q.prompt.split()]


def test_spellings_of_one_stem_are_one_group() -> None:
    groups = {q.prompt.split(": ")[1]: q.group for q in questions_of("british_to_american")}
    assert groups["baptise"] == groups["baptises"] == groups["baptising"]
    assert groups["colour"] != groups["baptise"]


def test_facts_of_a_country_are_one_group() -> None:
    groups = {q.group for q in questions_of("country_facts") if "Ethiopia" in q.prompt + q.target}
    assert groups == {"country:ET"}


def test_a_debian_source_is_in_one_task_only() -> None:
    tasks = ["software_topic", "german_to_english", "software_summary", "tags_to_description"]
    groups = [{question.group for question in questions_of(task)} for task in tasks]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_capitals_and_opposites_are_left_to_the_held_in_tasks() -> None:
    held_in = {q.prompt for name in ("country_facts", "antonym") for q in questions_of(name)}
    assert held_in.isdisjoint(q.prompt for q in questions_of("classic_quiz"))


def test_false_claims_are_no_ancestors() -> None:
    net = wordnet.read(members_of(named(["antonym"])[0].packages))
    for question in questions_of("taxonomy_true_false"):
        word, claim = (
            question.prompt.removeprefix("Every ").partition(".")[0].split(" is a kind of ")
        )
        above = {name for key in net.senses[word, "n"] for name in ancestors(net, net.synsets[key])}
        assert (claim in above) == (question.target == "true"), question


def ancestors(net: wordnet.WordNet, synset: wordnet.Synset) -> set[str]:
    parents = list(net.parents(synset, "@", "@i"))
    return {word for parent in parents for word in {*parent.words, *ancestors(net, parent)}}


@pytest.mark.parametrize(
    ("rating", "name"),
    [
        (-4.0, "very negative"),
        (-2.0, "very negative"),
        (-1.9, "negative"),
        (-0.5, "negative"),
        (-0.4, "neutral"),
        (0.0, "neutral"),
        (0.5, "positive"),
        (2.0, "very positive"),
    ],
)
def test_tone_bounds_belong_to_the_stronger_tone(rating: float, name: str) -> None:
    assert labelled.tone(rating) == name


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", ""),
        ("on", "on"),
        ("large|big", "large"),
        ("{the }cat", "the cat"),
        ("[St.|Saint] John's", "St. John's"),
        ("{J{ohn} }Adams", "John Adams"),
    ],
)
def test_quiz_patterns_stand_for_their_first_text(pattern: str, text: str) -> None:
    assert quizzes.first_reading(pattern) == text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", ""),
        ("Who 's there ?", "Who's there?"),
        ("Say `` yes '' now .", 'Say "yes" now.'),
        ("It does n't ( yet ) .", "It doesn't (yet)."),
        ("the boys ' names", "the boys' names"),
    ],
)
def test_tokens_are_joined_as_one_writes(words: str, text: str) -> None:
    assert labelled.detokenised(words) == text


def test_acronyms_keep_neither_context_nor_remark_in_their_meaning() -> None:
    (task,) = named(["acronym_expansion"])
    entries = {entry.word: entry for entry in task.read(members_of(task.packages))}
    wrapped = dictionaries.Entry("WRP", "A Wrapped Meaning", "WRAP, second line")
    assert entries["WRP"] == wrapped


def test_description_is_its_first_paragraph_on_one_line() -> None:
    (task,) = named(["software_summary"])
    entries: list[debian_index.Entry] = task.read(members_of(task.packages))
    (entry,) = [entry for entry in entries if entry.name == "tool8"]
    assert entry.source == "tool4"
    assert entry.about.endswith("short phrases. It has 8 parts.")
