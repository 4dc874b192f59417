"""The database behind a URL: connections, one writer at a time, and the schema brought up to date.

Knows the differences between SQLite and PostgreSQL, so that nobody else must.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from adapters_store.errors import RegistryUnavailable

BUSY_SECONDS = 60.0
WAL_PAGES = 8192  # of 4 KiB before they go into the database: an upload changes some sixty
SCHEMA_LOCK = 0x1A7A51A  # any number, the same for all who migrate
NAME_LOCKS = 0x1A7A51B  # the class of the locks on names
DIGEST_LOCKS = 0x1A7A51C  # and on digests
# Connections of one process for guards, and how long to wait for one: a file may be large.
GUARDS, GUARD_SECONDS = 8, 600.0


class Database:
    """Sessions over one database. Safe for many threads; other processes may use the same."""

    def __init__(self, url: str) -> None:
        """Connect and migrate; RegistryUnavailable if that cannot be done."""
        self.engine = _engine(url)
        self._writing = self.engine.execution_options(writes=True)
        self.reads = sessionmaker(self.engine)
        self.writes = sessionmaker(self._writing)
        self._locks = _lock_directory(self.engine.url)
        self._guarding = self._writing if self._locks else _guarding(self.engine.url)
        self._guarded = sessionmaker(self._guarding)
        try:
            self._migrate()
        except (DBAPIError, CommandError) as error:
            self.close()
            raise RegistryUnavailable(self.engine.url.render_as_string(), str(error)) from error

    @contextmanager
    def guard(self, digest: str) -> Iterator[Session]:
        """A write transaction that holds back every other guard of `digest`, in any process.

        The lock cannot be lost while the transaction can still be committed: PostgreSQL's belongs
        to the transaction; SQLite's is a file's, which the system drops with the process. SQLite's
        other writers wait from the first statement only.
        """
        if self._locks:
            with _held(self._locks / _stripe(digest)), self._guarded.begin() as session:
                yield session
            return
        with self._guarded.begin() as session:
            lock = func.pg_advisory_xact_lock(DIGEST_LOCKS, func.hashtext(digest))
            session.execute(select(lock))
            yield session

    def close(self) -> None:
        self._guarding.dispose()
        self.engine.dispose()

    def _migrate(self) -> None:
        """Run the steps that are missing, all or none, one process at a time."""
        config = Config()
        config.set_main_option("script_location", "adapters_store:migrations")
        with self._writing.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def lock_name(session: Session, name: str) -> None:
    """Hold back every other writer of `name` until the transaction ends.

    SQLite's writers hold back all others from their beginning.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock(NAME_LOCKS, func.hashtext(name))
        session.execute(select(lock))


def _lock_directory(url: URL) -> Path | None:
    """Where the lock files of a SQLite database are: beside it."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path(f"{url.database}-locks")


def _stripe(digest: str) -> str:
    """The lock file of a digest, one of 256."""
    return digest.partition(":")[2][:2]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made if it is not there; wait for it without asking again."""
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise RegistryUnavailable("(unreadable)", str(error)) from error
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise RegistryUnavailable(url, "in memory every thread would have its own")
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        _configure_sqlite(engine)
        return engine
    return _server_engine(parsed)


def _guarding(url: URL) -> Engine:
    """Connections apart: those of readers must not wait until somebody's file is written."""
    return _server_engine(url, pool_size=GUARDS, max_overflow=0, pool_timeout=GUARD_SECONDS)


def _server_engine(url: URL, **pool: float) -> Engine:
    shown = url.render_as_string()
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise RegistryUnavailable(shown, "only sqlite and postgresql are known")
    try:
        psycopg = url.set(drivername="postgresql+psycopg")
        return create_engine(psycopg, pool_pre_ping=True, **pool)
    except ModuleNotFoundError as error:
        reason = f"{error}; install the extra 'postgres'"
        raise RegistryUnavailable(shown, reason) from error


def _use_wal(connection: Any, lock: Path) -> None:
    """Change the journal's mode if nobody has; of two who do so at once SQLite fails one."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        with _held(lock):
            connection.execute("PRAGMA journal_mode = WAL")


def _configure_sqlite(engine: Engine) -> None:
    """SQLite as a shared, durable database: WAL, synchronous, one writer at a time.

    Writing transactions take the write lock at their start. One that read first would fail when
    another wrote in between, instead of waiting for it.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        _use_wal(connection, Path(f"{engine.url.database}-locks") / "journal")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
