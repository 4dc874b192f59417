"""The registry: what may be asked of it, each question or change in one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import ColumnElement, delete, exists, insert, select
from sqlalchemy.orm import Session

from adapters_store.errors import AdapterInUse, AdapterNotFound, InvalidMetadata
from adapters_store.names import Reference, check_alias, check_digest, check_name, parse_reference
from adapters_store.registry import aliases, listing
from adapters_store.registry.database import Database, lock_name
from adapters_store.registry.guarded import Guarded, check_draft, publication_of
from adapters_store.registry.labels import SERVER_KEYS, check_metadata, search_text
from adapters_store.registry.listing import ANY, Filter
from adapters_store.registry.records import (
    AdapterDraft,
    AdapterRecord,
    Change,
    Latest,
    NameState,
    Publication,
)
from adapters_store.registry.tables import Label, Name, Version


class Registry:
    """The adapters of one deployment. Safe for many threads and processes at once."""

    def __init__(self, url: str) -> None:
        """Open the database at `url`, its schema made or upgraded; else RegistryUnavailable."""
        self._database = Database(url)
        self._reads, self._writes = self._database.reads, self._database.writes

    def publish(self, draft: AdapterDraft) -> Publication:
        """The version of `draft.name` with this digest: the one that exists, or the next one.

        Version numbers of a name grow by one and are never used again, even after deletion.
        """
        with self.guard(draft.digest) as guarded:
            return guarded.publish(draft)

    @contextmanager
    def guard(self, digest: str) -> Iterator[Guarded]:
        """Hold back every other holder of `digest`, in any process that shares the database.

        For those who change a file together with the rows that name it: else one may delete the
        file that another has just found already there. Waits; to be held by nobody who holds one.
        """
        with self._database.guard(digest) as session:
            yield Guarded(session, digest)

    def preview(self, draft: AdapterDraft) -> Publication:
        """What `publish` would answer now, without publishing."""
        check_draft(draft)
        with self._reads.begin() as session:
            return publication_of(session, draft)

    def resolve(self, reference: str, key: str | None = None) -> AdapterRecord:
        """The version that `reference` names, the latest of a bare name; else AdapterNotFound.

        Of an alias that is split, the one for whoever has the sticky `key`; without a key, the one
        of the largest share.
        """
        wanted = parse_reference(reference)
        with self._reads.begin() as session:
            if wanted.alias is not None:
                targets = aliases.targets_of(session, wanted.name, wanted.alias)
                version = aliases.chosen(targets, wanted.name, wanted.alias, key)
                wanted = Reference(wanted.name, version=version)
            return _matching(session, wanted)[-1].record

    def list_page(
        self, limit: int, after: str | None, wanted: Filter = ANY
    ) -> tuple[list[AdapterRecord], str | None]:
        """At most `limit` records by (name, version), and the cursor of the next page if any.

        `after` is None or the cursor that the page before came with.
        """
        last = parse_reference(after) if after is not None else None
        with self._reads.begin() as session:
            found = [row.record for row in listing.page(session, limit + 1, last, wanted)]
        records = found[:limit]
        return records, records[-1].id if len(found) > limit else None

    def latest(self) -> list[Latest]:
        """The latest version of every name, by name."""
        with self._reads.begin() as session:
            return listing.latest(session)

    def names(self) -> list[str]:
        """Every name that has a version, by the age of its oldest one: the newest name is last."""
        with self._reads.begin() as session:
            return listing.names(session)

    def holder(self, digest: str) -> AdapterRecord:
        """Some version with this content; else AdapterNotFound."""
        check_digest(digest)
        with self._reads.begin() as session:
            row = session.scalar(select(Version).where(Version.digest == digest).limit(1))
            if row is None:
                raise AdapterNotFound(digest)
            return row.record

    def state(self, name: str) -> NameState:
        """All that belongs to a name; AdapterNotFound if it has no version."""
        check_name(name)
        with self._reads.begin() as session:
            return _state(session, name)

    def pinned_names(self) -> list[str]:
        """Names that are to stay on the device, where they have a version."""
        with self._reads.begin() as session:
            has_version = exists().where(Version.name == Name.name)
            query = select(Name.name).where(Name.pinned, has_version).order_by(Name.name)
            return list(session.scalars(query))

    def pinned_digests(self, name: str) -> frozenset[str]:
        """What of a name is to stay on the device: nothing unless it is pinned."""
        try:
            state = self.state(name)
        except AdapterNotFound:
            return frozenset()
        return state.standing if state.pinned else frozenset()

    def change(self, reference: str, change: Change) -> NameState:
        """Make every part of `change`, or none of it.

        Metadata belongs to the version that `reference` names, the latest of a bare name. Raises
        AdapterNotFound for a version or alias that does not exist, InvalidMetadata.
        """
        wanted = parse_reference(reference)
        for alias in change.aliases:
            check_alias(alias)
        with self._writes.begin() as session:
            lock_name(session, wanted.name)
            row = _matching(session, wanted)[-1]
            for alias, weights in change.aliases.items():
                aliases.point(session, wanted.name, alias, weights)
            if change.pinned is not None:
                session.get_one(Name, wanted.name).pinned = change.pinned
            if change.metadata:
                _annotate(session, row, change)
            return _state(session, wanted.name)

    def roll_back(self, name: str, alias: str) -> NameState:
        """Return an alias to what it stood for before: AdapterNotFound, NoEarlierTarget."""
        check_name(name)
        check_alias(alias)
        with self._writes.begin() as session:
            lock_name(session, name)
            aliases.roll_back(session, name, alias)
            return _state(session, name)

    def delete(self, reference: str, *, force: bool = False) -> list[AdapterRecord]:
        """Remove and answer what `reference` names: all versions of a bare name or an alias.

        AdapterInUse while aliases point there; with `force` those aliases are removed too.
        """
        wanted = parse_reference(reference)
        with self._writes.begin() as session:
            lock_name(session, wanted.name)
            rows = _matching(session, wanted)
            going = {row.version for row in rows}
            held = aliases.aliases_of(session, wanted.name)
            pointing = [alias for alias, targets in held.items() if going & set(targets)]
            if pointing and not force:
                raise AdapterInUse(reference, pointing)
            for alias in pointing:
                aliases.point(session, wanted.name, alias, None)
            records = [row.record for row in rows]
            for row in rows:
                session.delete(row)
            return records

    @property
    def database(self) -> Database:
        """The database itself, for what else a deployment keeps there."""
        return self._database

    def close(self) -> None:
        self._database.close()


def _matching(session: Session, wanted: Reference) -> list[Version]:
    """The versions that `wanted` names, oldest first, at least one; else AdapterNotFound."""
    conditions: list[ColumnElement[bool]] = [Version.name == wanted.name]
    if wanted.version is not None:
        conditions.append(Version.version == wanted.version)
    if wanted.digest is not None:
        conditions.append(Version.digest == wanted.digest)
    if wanted.alias is not None:
        targets = aliases.targets_of(session, wanted.name, wanted.alias)
        conditions.append(Version.version.in_(targets))
    query = select(Version).where(*conditions).order_by(Version.version)
    rows = list(session.scalars(query))
    if not rows:
        raise AdapterNotFound(str(wanted))
    return rows


def _annotate(session: Session, row: Version, change: Change) -> None:
    """Change metadata, and the labels that come from it."""
    for key in sorted(SERVER_KEYS & change.metadata.keys()):
        raise InvalidMetadata(key, "is for the server to say")
    merged = {**row.metadata_, **change.metadata}
    row.metadata_ = {field: value for field, value in merged.items() if value is not None}
    check_metadata(row.metadata_)
    row.search = search_text(row.name, row.metadata_)
    here = (Label.name == row.name) & (Label.version == row.version)
    session.execute(delete(Label).where(here))
    session.flush()
    session.execute(insert(Label), row.labels)


def _state(session: Session, name: str) -> NameState:
    rows = _matching(session, Reference(name))
    pinned = session.get_one(Name, name).pinned
    versions = tuple(row.record for row in rows)
    return NameState(name, pinned, versions, aliases.aliases_of(session, name))
