"""Questions out of the Debian package index: Packages, Translation-en and Translation-de.

Sibling packages share their text. So all packages of one source go to one of the four tasks that
could ask about them, and the source is the group. Owns the index's format and these four tasks.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapters_store.tasks.questions import Question, digest_number, tidy

PACKAGES, ENGLISH, GERMAN = "Packages", "Translation-en", "Translation-de"
TOPIC = (
    "Topic of this software (games, sound, video, graphics, science, mathematics, electronics, "
    "networking, mail, database)?\n{}"
)
GERMAN_TEXT = "Translate from German to English: {}"
SUMMARY = "Summarize this software description in one short phrase.\n{}"
TAGS = "Write a short description of the program {} from its tags: {}"
TOPICS = {
    "games": "games",
    "sound": "sound",
    "video": "video",
    "graphics": "graphics",
    "science": "science",
    "math": "mathematics",
    "electronics": "electronics",
    "net": "networking",
    "mail": "mail",
    "database": "database",
}
FACETS = ("interface", "scope", "use")
MIN_TAGS = 3
MIN_WORDS = 12  # of a description


@dataclass(frozen=True, slots=True)
class Entry:
    """A package. `german` is its synopsis in German, or None; `about` its first paragraph."""

    name: str
    source: str
    section: str
    tags: Sequence[str]
    synopsis: str
    about: str
    german: str | None

    @property
    def group(self) -> str:
        return f"debian:{self.source}"


def read(members: Mapping[str, bytes]) -> list[Entry]:
    """The packages that have an English description, in the order of the index."""
    english, german = (
        {fields["Description-md5"]: fields for fields in stanzas(members[name])}
        for name in (ENGLISH, GERMAN)
    )
    return [
        _entry(fields, english[key]["Description-en"], german.get(key))
        for fields in stanzas(members[PACKAGES])
        if (key := fields.get("Description-md5", "")) in english
    ]


def stanzas(content: bytes) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file; continued lines keep their newlines and first blanks."""
    for stanza in content.decode().split("\n\n"):
        fields = re.split(r"\n(?! )", stanza.strip("\n"))
        if fields != [""]:
            yield {name: text.strip() for name, _, text in (f.partition(":") for f in fields)}


def _entry(fields: Mapping[str, str], english: str, german: Mapping[str, str] | None) -> Entry:
    synopsis, _, body = english.partition("\n")
    return Entry(
        name=fields["Package"],
        source=fields.get("Source", fields["Package"]).split()[0],
        section=fields["Section"],
        tags=tuple(tidy(fields.get("Tag", "")).split(", ")),
        synopsis=tidy(synopsis),
        about=tidy(body.partition("\n .\n")[0]),
        german=tidy(german["Description-de"].partition("\n")[0]) if german else None,
    )


def topic(entry: Entry) -> Question | None:
    """The section by the synopsis."""
    if entry.section not in TOPICS:
        return None
    return Question(entry.group, TOPIC.format(entry.synopsis), TOPICS[entry.section])


def translation(entry: Entry) -> Question | None:
    """The English synopsis by the German one."""
    if not entry.german or entry.german == entry.synopsis:
        return None
    return Question(entry.group, GERMAN_TEXT.format(entry.german), entry.synopsis)


def summary(entry: Entry) -> Question | None:
    """The synopsis by the description."""
    if len(entry.about.split()) < MIN_WORDS:
        return None
    return Question(entry.group, SUMMARY.format(entry.about), entry.synopsis)


def from_tags(entry: Entry) -> Question | None:
    """The synopsis by the tags that say how a program looks and what it is for."""
    told = [tag for tag in entry.tags if tag.partition("::")[0] in FACETS]
    if len(told) < MIN_TAGS or "role::program" not in entry.tags:
        return None
    return Question(entry.group, TAGS.format(entry.name, ", ".join(told)), entry.synopsis)


Ask = Callable[[Entry], Question | None]
WEIGHTS: Mapping[Ask, int] = {topic: 16, from_tags: 12, translation: 16, summary: 3}


def given(entries: Sequence[Entry], ask: Ask) -> Iterator[Question]:
    """The questions of `ask` about the sources that are its own; each synopsis once."""
    able: dict[str, set[Ask]] = defaultdict(set)
    for entry in entries:
        able[entry.source].update(other for other in WEIGHTS if other(entry))
    seen: set[str] = set()
    for entry in entries:
        question = ask(entry)
        if question and entry.synopsis not in seen and owner(entry.source, able) is ask:
            seen.add(entry.synopsis)
            yield question


def owner(source: str, able: Mapping[str, Collection[Ask]]) -> Ask:
    """The one of those able to ask about `source` that does: rarer ones more often."""
    tickets = [ask for ask in WEIGHTS if ask in able[source] for _ in range(WEIGHTS[ask])]
    return tickets[digest_number("debian task", source) % len(tickets)]


def software_topic(entries: Sequence[Entry]) -> Iterator[Question]:
    return given(entries, topic)


def german_to_english(entries: Sequence[Entry]) -> Iterator[Question]:
    return given(entries, translation)


def software_summary(entries: Sequence[Entry]) -> Iterator[Question]:
    return given(entries, summary)


def tags_to_description(entries: Sequence[Entry]) -> Iterator[Question]:
    return given(entries, from_tags)
