"""How like a text is to the text that was wanted: numbers from 0 to 1. Knows nothing else.

Normalisation is that of Natural Instructions, which mttl uses (`ni_metrics.py`): lower case,
without ASCII punctuation, white space folded. SQuAD's also drops the articles.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """`text` in lower case, without ASCII punctuation, words one space apart."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def exact_match(answer: str, target: str) -> float:
    """1 where the normalised texts are equal; of bare punctuation, the texts as they stand."""
    if not normalized(target):
        return float(answer.strip() == target.strip())
    return float(normalized(answer) == normalized(target))


def contains(answer: str, target: str) -> float:
    """1 where the target's words stand in the answer, one after the other, normalised alike."""
    if not normalized(target):
        return float(target.strip() in answer)
    return float(f" {normalized(target)} " in f" {normalized(answer)} ")


def f1(answer: str, target: str) -> float:
    """SQuAD 2.0's F1 of words as bags; where one text has no words, 1 only if neither has."""
    found, wanted = _squad_words(answer), _squad_words(target)
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def rouge_l(answer: str, target: str) -> float:
    """rouge-score's F of the longest common subsequence of words, Porter-stemmed.

    Its words, but not its table of all pairs of them, which a long text would fill memory with.
    """
    found, wanted = (_rouge_tokenizer().tokenize(text) for text in (answer, target))
    if not found or not wanted:
        return 0.0
    return 2 * _longest_common(found, wanted) / (len(found) + len(wanted))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, by Hyyrö's bit-parallel rows (2004).

    Bit i of `row` is 0 where the length grows between the first i and i + 1 words of `b`.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << i
    row = whole = (1 << len(b)) - 1
    for word in a:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & whole
    return len(b) - row.bit_count()


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


@cache
def _rouge_tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer  # brings nltk: only for who needs it

    return DefaultTokenizer(use_stemmer=True)
