"""Publishing, and what may only be done by who holds the guard of a digest. No commits here."""

import time

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from adapters_store.names import check_name
from adapters_store.registry.database import lock_name
from adapters_store.registry.labels import check_metadata
from adapters_store.registry.records import AdapterDraft, AdapterRecord, Publication
from adapters_store.registry.tables import Label, Name, Version


class Guarded:
    """One digest in a transaction that alone may change its rows and its file."""

    def __init__(self, session: Session, digest: str) -> None:
        self._session, self._digest = session, digest

    def publish(self, draft: AdapterDraft) -> Publication:
        """As Registry.publish; it stands when the guard ends well."""
        assert draft.digest == self._digest, "the guard of another digest"
        check_draft(draft)
        lock_name(self._session, draft.name)
        publication = publication_of(self._session, draft)
        if publication.created:
            _add(self._session, publication.record)
        return publication

    def is_used(self) -> bool:
        """Whether any version of any name points at the digest."""
        query = select(Version.version).where(Version.digest == self._digest).limit(1)
        return self._session.scalar(query) is not None


def check_draft(draft: AdapterDraft) -> None:
    """Raise InvalidName or InvalidMetadata for what cannot be published."""
    check_name(draft.name)
    check_metadata(draft.metadata)


def publication_of(session: Session, draft: AdapterDraft) -> Publication:
    """What publishing would answer now."""
    same = (Version.name == draft.name) & (Version.digest == draft.digest)
    existing = session.scalar(select(Version).where(same))
    if existing is not None:
        return Publication(existing.record, created=False)
    known = session.get(Name, draft.name)
    version = known.next_version if known else 1
    record = AdapterRecord(**vars(draft), version=version, created=time.time())
    return Publication(record, created=True)


def _add(session: Session, record: AdapterRecord) -> None:
    session.merge(Name(name=record.name, next_version=record.version + 1))
    session.flush()
    row = Version.of(record)
    session.add(row)
    session.flush()
    session.execute(insert(Label), row.labels)
