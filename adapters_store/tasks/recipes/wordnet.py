"""WordNet 3.0 as Debian's wordnet-base ships it: synsets, senses in order of use, and counts.

Owns the file format (wndb(5)). Knows no task.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FOLDER = "usr/share/wordnet/"
PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SENSE_KEY_PARTS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
PART_NAMES = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
EXAMPLE = re.compile(r'"([^"]+)"')
MARKER = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand


@dataclass(frozen=True, slots=True)
class Pointer:
    """An edge to the synset `target`; `source_word` and `target_word` count from 1, 0 is all."""

    symbol: str
    target: str
    source_word: int
    target_word: int


@dataclass(frozen=True, slots=True)
class Synset:
    """Words with one meaning. `key` is the part of speech and the offset: `n00001740`."""

    key: str
    topic: int  # number of the lexicographer's file
    words: Sequence[str]
    pointers: Sequence[Pointer]
    gloss: str

    @property
    def part(self) -> str:
        return self.key[0]

    @property
    def group(self) -> str:
        return f"synset:{self.key}"

    @property
    def definition(self) -> str:
        """The gloss without its examples."""
        return self.gloss.partition('"')[0].strip(" ;:,")

    @property
    def short_definition(self) -> str:
        """The first clause of the definition, without remarks in brackets."""
        return without_brackets(self.definition).partition(";")[0].strip()

    @property
    def examples(self) -> Sequence[str]:
        return EXAMPLE.findall(self.gloss)

    def pointed(self, *symbols: str) -> Iterator[Pointer]:
        return (pointer for pointer in self.pointers if pointer.symbol in symbols)


@dataclass(frozen=True, slots=True)
class WordNet:
    """All synsets by key, and the senses of each (lower-case word, part), most common first.

    `counts` says how often a sense, (word, part, number from 1), is tagged in WordNet's corpus.
    """

    synsets: Mapping[str, Synset]
    senses: Mapping[tuple[str, str], Sequence[str]]
    counts: Mapping[tuple[str, str, int], int]

    def count(self, word: str, part: str) -> int:
        """How often any sense of `word` is tagged."""
        numbers = range(1, len(self.senses.get((word.lower(), part), ())) + 1)
        return sum(self.counts.get((word.lower(), part, number), 0) for number in numbers)

    def rank(self, word: str, synset: Synset) -> int:
        """The place of `synset` among the senses of `word`, 0 for the most common one."""
        return self.senses[word.lower(), synset.part].index(synset.key)

    def first_senses(self) -> Iterator[tuple[str, Synset]]:
        """Each word as it is spelt, with the most common of its synsets in a part of speech."""
        for synset in self.synsets.values():
            for word in synset.words:
                if self.rank(word, synset) == 0:
                    yield word, synset

    def parents(self, synset: Synset, *symbols: str) -> Iterator[Synset]:
        return (self.synsets[pointer.target] for pointer in synset.pointed(*symbols))


def read(members: Mapping[str, bytes]) -> WordNet:
    """Parse the members `usr/share/wordnet/*` of the package."""
    files = {name: members[FOLDER + name].decode() for name in file_names()}
    return WordNet(
        {synset.key: synset for part in PARTS for synset in _synsets(part, files)},
        {entry: keys for part in PARTS for entry, keys in _senses(part, files)},
        dict(_count(line) for line in files["cntlist.rev"].splitlines()),
    )


def file_names() -> list[str]:
    return ["cntlist.rev", *(f"{kind}.{p}" for p in PARTS.values() for kind in ("data", "index"))]


def without_brackets(text: str) -> str:
    return " ".join(re.sub(r"\([^()]*\)", " ", text).split()).replace(" ;", ";").replace(" ,", ",")


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.startswith("  "))  # else the licence


def _synsets(part: str, files: Mapping[str, str]) -> Iterator[Synset]:
    for line in _lines(files[f"data.{PARTS[part]}"]):
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        end = 4 + 2 * int(fields[3], 16)
        words = [MARKER.sub("", word).replace("_", " ") for word in fields[4:end:2]]
        pointers = fields[end + 1 : end + 1 + 4 * int(fields[end])]
        yield Synset(
            part + fields[0], int(fields[1]), words, list(_pointers(pointers)), gloss.strip()
        )


def _pointers(fields: Sequence[str]) -> Iterator[Pointer]:
    for symbol, offset, part, ends in zip(*(fields[i::4] for i in range(4)), strict=True):
        target = part.replace("s", "a") + offset
        yield Pointer(symbol, target, int(ends[:2], 16), int(ends[2:], 16))


def _senses(part: str, files: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for line in _lines(files[f"index.{PARTS[part]}"]):
        fields = line.split()
        offsets = fields[-int(fields[2]) :]
        yield (fields[0].replace("_", " "), part), [part + offset for offset in offsets]


def _count(line: str) -> tuple[tuple[str, str, int], int]:
    key, number, count = line.split()
    word, _, rest = key.partition("%")
    return (word.replace("_", " "), SENSE_KEY_PARTS[rest[0]], int(number)), int(count)
