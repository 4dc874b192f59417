"""Questions about words out of WordNet: definitions, kinds, opposites, derived nouns.

A question's group is its synset, so that what is asked of one meaning stays on one side.
"""

import re
from collections.abc import Iterator

from adapters_store.tasks.questions import Question, digest_number
from adapters_store.tasks.recipes.wordnet import PART_NAMES, Synset, WordNet

DEFINE = 'Define the {} "{}".'
HYPERNYM = "A {} is a kind of what?"
ANTONYM = 'What is the opposite of "{}"?'
WHO = "Who was {}?"
WHAT = "What is {}?"
NOUN = 'Give the noun form of the {} "{}".'
TRUE_OR_FALSE = "Every {} is a kind of {}. True or false?"
CATEGORY = (
    'Which category fits "{}" ({}): animal, plant, food, body, artifact, person, location, '
    "substance, time or feeling?"
)
CATEGORIES = {
    5: "animal",
    6: "artifact",
    8: "body",
    12: "feeling",
    13: "food",
    15: "location",
    18: "person",
    20: "plant",
    27: "substance",
    28: "time",
}
PERSON = 18
COMMON = 3  # times tagged in the corpus
MAX_DEFINITION_CHARS = 60
MAX_DESCRIPTION_CHARS = 70  # of a person or place
PLAIN_WORD = re.compile("[a-z]{3,}")
PLAIN_NOUN = re.compile("[a-z]+(?:-[a-z]+)*")


def define_word(wordnet: WordNet) -> Iterator[Question]:
    """Words that the corpus uses, by the first clause of their most common sense."""
    for word, synset in wordnet.first_senses():
        short = synset.short_definition
        usual = PLAIN_WORD.fullmatch(word) and wordnet.count(word, synset.part)
        if usual and 0 < len(short) <= MAX_DEFINITION_CHARS:
            prompt = DEFINE.format(PART_NAMES[synset.part], word)
            yield Question(synset.group, prompt, short)


def hypernym(wordnet: WordNet) -> Iterator[Question]:
    """Nouns and the parent of their most common sense, where it is a word in use."""
    for word, synset in wordnet.first_senses():
        if synset.part == "n" and PLAIN_NOUN.fullmatch(word):
            for parent in wordnet.parents(synset, "@"):
                if usage(wordnet, parent) >= COMMON:
                    yield Question(synset.group, HYPERNYM.format(word), parent.words[0])


def usage(wordnet: WordNet, synset: Synset) -> int:
    """How often the corpus uses the words of `synset`, in any sense."""
    return sum(wordnet.count(word, synset.part) for word in synset.words)


def antonym(wordnet: WordNet) -> Iterator[Question]:
    """Both directions of each pair of opposites; the unordered pair is the group."""
    for synset in wordnet.synsets.values():
        for pointer in synset.pointed("!"):
            word = synset.words[pointer.source_word - 1]
            opposite = wordnet.synsets[pointer.target].words[pointer.target_word - 1]
            group = "opposites:" + "/".join(sorted((word.lower(), opposite.lower())))
            yield Question(group, ANTONYM.format(word), opposite)


def who_or_what_is(wordnet: WordNet) -> Iterator[Question]:
    """People, places and works; the bearer of a name whose sense comes first is the one meant."""
    instances = [s for s in wordnet.synsets.values() if any(s.pointed("@i"))]
    for synset in sorted(instances, key=lambda s: wordnet.rank(s.words[0], s)):
        short = synset.short_definition
        if 0 < len(short) <= MAX_DESCRIPTION_CHARS:
            template = WHO if synset.topic == PERSON else WHAT
            yield Question(synset.group, template.format(synset.words[0]), short)


def derive_noun(wordnet: WordNet) -> Iterator[Question]:
    """Nouns derived from an adjective or verb; they share their first letters with it."""
    for word, synset in wordnet.first_senses():
        if synset.part in "av" and PLAIN_WORD.fullmatch(word):
            for noun in _derived_nouns(wordnet, word, synset):
                prompt = NOUN.format(PART_NAMES[synset.part], word)
                yield Question(synset.group, prompt, noun)


def _derived_nouns(wordnet: WordNet, word: str, synset: Synset) -> Iterator[str]:
    for pointer in synset.pointed("+"):
        target = wordnet.synsets[pointer.target]
        noun = target.words[pointer.target_word - 1]
        from_word = synset.words[pointer.source_word - 1] == word
        if from_word and target.part == "n" and target.topic != PERSON and _derived(noun, word):
            yield noun


def _derived(noun: str, word: str) -> bool:
    """Whether `noun` looks made from `word`, and is not what `word` was made from."""
    return bool(PLAIN_WORD.fullmatch(noun)) and noun[:3] == word[:3] and len(noun) > len(word)


def noun_category(wordnet: WordNet) -> Iterator[Question]:
    """Nouns with their definition, by the lexicographer's file that they stand in."""
    for synset in wordnet.synsets.values():
        if synset.part == "n" and synset.topic in CATEGORIES and not any(synset.pointed("@i")):
            prompt = CATEGORY.format(synset.words[0], synset.definition)
            yield Question(synset.group, prompt, CATEGORIES[synset.topic])


def taxonomy_true_false(wordnet: WordNet) -> Iterator[Question]:
    """Nouns with a true ancestor, or with another noun's ancestor that is none of theirs."""
    nouns = [
        (word, synset, sorted(_ancestors(wordnet, synset)))
        for word, synset in wordnet.first_senses()
        if synset.part == "n" and PLAIN_WORD.fullmatch(word) and wordnet.count(word, "n") >= COMMON
    ]
    known = [noun for noun in nouns if noun[2]]
    for word, synset, ancestors in known:
        picked = digest_number("taxonomy", word)
        others = known[picked % len(known)][2]
        truth = picked % 2 == 0
        claims = ancestors if truth else others
        claim = claims[picked // len(known) % len(claims)]
        if truth or claim not in _all_ancestors(wordnet, word):
            prompt = TRUE_OR_FALSE.format(word, claim)
            yield Question(synset.group, prompt, "true" if truth else "false")


def _ancestors(wordnet: WordNet, synset: Synset) -> set[str]:
    """Single common words for the synsets above `synset`."""
    above: set[str] = set()
    for parent in wordnet.parents(synset, "@", "@i"):
        if PLAIN_WORD.fullmatch(parent.words[0]) and usage(wordnet, parent) >= COMMON:
            above.add(parent.words[0])
        above |= _ancestors(wordnet, parent)
    return above


def _all_ancestors(wordnet: WordNet, word: str) -> set[str]:
    """Every word above, or the same as, any sense of `word`."""
    above: set[str] = set()
    waiting = [wordnet.synsets[key] for key in wordnet.senses[word, "n"]]
    while waiting:
        synset = waiting.pop()
        above.update(synset.words)
        waiting += wordnet.parents(synset, "@", "@i")
    return above
