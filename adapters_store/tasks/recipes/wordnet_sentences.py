"""Questions about words in WordNet's example sentences. A question's group is its synset."""

import re
from collections.abc import Iterator

from adapters_store.tasks.questions import Question, digest_number
from adapters_store.tasks.recipes.wordnet import Synset, WordNet

CLOZE = "Fill in the blank: {}\nHint: {}"
SENSE = 'Sentence: {}\nDoes "{}" here mean "{}"? Answer yes or no.'
BLANK = "____"
MIN_WORDS = 4  # of an example


def cloze_word(wordnet: WordNet) -> Iterator[Question]:
    """One example of each synset, with the word left out and its meaning as the hint."""
    for synset in wordnet.synsets.values():
        for sentence, word in _examples(synset):
            if BLANK not in sentence and sentence.split()[0].lower() != word.lower():
                gap = re.sub(rf"\b{re.escape(word)}\b", BLANK, sentence, count=1)
                prompt = CLOZE.format(gap, synset.definition)
                yield Question(synset.group, prompt, word)
                break


def word_sense_match(wordnet: WordNet) -> Iterator[Question]:
    """An example of a word of several senses, with the definition of its own or another one."""
    for synset in wordnet.synsets.values():
        for sentence, word in _examples(synset):
            keys = [key for key in wordnet.senses[word.lower(), synset.part] if key != synset.key]
            if keys:
                yield _match(wordnet, synset, sentence, word, keys)
                break


def _match(
    wordnet: WordNet, synset: Synset, sentence: str, word: str, others: list[str]
) -> Question:
    picked = digest_number("sense", sentence, word)
    same = picked % 2 == 0
    meant = synset if same else wordnet.synsets[others[picked // 2 % len(others)]]
    prompt = SENSE.format(sentence, word, meant.definition)
    return Question(synset.group, prompt, "yes" if same else "no")


def _examples(synset: Synset) -> Iterator[tuple[str, str]]:
    """Examples of some length, each with the word of `synset` that stands in it."""
    for sentence in synset.examples:
        if len(sentence.split()) >= MIN_WORDS:
            for word in synset.words:
                if re.search(rf"\b{re.escape(word)}\b", sentence):
                    yield sentence, word
                    break
