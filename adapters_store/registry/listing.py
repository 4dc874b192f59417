"""Pages of versions: filtered, searched, in the order of (name, version).

A page is read from an index in its order and ends when it is full. With filters, the index entries
read are those of the rarest label asked for.
"""

from dataclasses import dataclass

from sqlalchemy import Exists, ScalarSelect, Select, exists, func, literal, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from adapters_store.names import Reference
from adapters_store.registry.labels import Label as Pair
from adapters_store.registry.labels import folded, pieces, plain
from adapters_store.registry.records import Latest
from adapters_store.registry.tables import Label, Name, Version

COUNTED = 200  # entries of a label before it is common
SAMPLED = 16  # pieces of a search that are counted
AFTER_NAMES = "\x7f"  # sorts after every character that a name may hold


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted: None for what does not matter."""

    name: str | None = None  # begins with this
    kind: str | None = None
    tag: str | None = None
    task: str | None = None
    base: str | None = None
    q: str | None = None  # in the name, the task or the description, in any case

    @property
    def labels(self) -> list[Pair]:
        wanted = {"kind": self.kind, "tag": self.tag, "task": self.task, "base": self.base}
        return [(key, plain(value)) for key, value in wanted.items() if value is not None]


ANY = Filter()


def page(session: Session, limit: int, after: Reference | None, wanted: Filter) -> list[Version]:
    """At most `limit` versions after `after`, as `wanted` wants them."""
    query = page_query(session, after, wanted).limit(limit)
    return list(session.scalars(query))


def page_query(session: Session, after: Reference | None, wanted: Filter) -> Select[Version]:
    """All that follows `after`; the reader limits it."""
    text = folded(wanted.q) if wanted.q else None
    every = [*wanted.labels, *(("text", piece) for piece in _sampled(text))]
    driver = _rarest(session, every) if every else None
    query, name, version = _driven(driver)
    for pair in wanted.labels:
        if pair != driver:
            query = query.where(_has(pair))
    if text:
        query = query.where(Version.search.contains(text, autoescape=True))
    if wanted.name:
        first = plain(wanted.name)
        query = query.where(name >= first, name < first + AFTER_NAMES)
    if after is not None:
        query = query.where(tuple_(name, version) > (after.name, after.version))
    return query.order_by(name, version)


def latest(session: Session) -> list[Latest]:
    """The latest version of every name that has one, by name. Makes no mapped objects: they would
    cost ten times the query."""
    highest = aliased(Version)
    newest = select(func.max(highest.version)).where(highest.name == Name.name).scalar_subquery()
    here = (Version.name == Name.name) & (Version.version == newest)
    columns = (Version.name, Version.version, Version.digest, Version.created)
    query = select(*columns).join_from(Name, Version, here).order_by(Name.name)
    return [Latest(*row) for row in session.execute(query)]


def names(session: Session) -> list[str]:
    """Names that have a version, the one with the youngest first version last."""
    oldest = func.min(Version.created)
    query = select(Version.name).group_by(Version.name).order_by(oldest, Version.name)
    return list(session.scalars(query))


Column = InstrumentedAttribute[str]
Number = InstrumentedAttribute[int]


def _driven(driver: Pair | None) -> tuple[Select[Version], Column, Number]:
    """The versions that have the label, and the columns by which they are read in order."""
    if driver is None:
        return select(Version), Version.name, Version.version
    here = (Version.name == Label.name) & (Version.version == Label.version)
    query = select(Version).join_from(Label, Version, here)
    key, value = driver
    return query.where(Label.key == key, Label.value == value), Label.name, Label.version


def _has(pair: Pair) -> Exists:
    other = aliased(Label)
    here = (other.name == Version.name) & (other.version == Version.version)
    return exists().where(other.key == pair[0], other.value == pair[1], here)


def _sampled(text: str | None) -> list[str]:
    found = pieces(text) if text else []
    return found[:: -(-len(found) // SAMPLED)] if found else []


def _rarest(session: Session, pairs: list[Pair]) -> Pair:
    """The pair with the fewest entries, as far as they are counted."""
    if len(pairs) == 1:
        return pairs[0]
    counts = session.execute(select(*[_count(pair) for pair in pairs])).one()
    return min(zip(counts, pairs, strict=True))[1]


def _count(pair: Pair) -> ScalarSelect[int]:
    key, value = pair
    entries = select(literal(1)).select_from(Label).where(Label.key == key, Label.value == value)
    return select(func.count()).select_from(entries.limit(COUNTED).subquery()).scalar_subquery()
