"""The database behind a URL: connections, one writer at a time, and the schema brought up to date.

Knows the differences between SQLite and PostgreSQL, so that nobody else must.
"""

from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from adapters_store.errors import RegistryUnavailable

BUSY_SECONDS = 60.0
SCHEMA_LOCK = 0x1A7A51A  # any number, the same for all who migrate
NAME_LOCKS = 0x1A7A51B  # the class of the locks on names


class Database:
    """Sessions over one database. Safe for many threads; other processes may use the same."""

    def __init__(self, url: str) -> None:
        """Connect and migrate; RegistryUnavailable if that cannot be done."""
        self.engine = _engine(url)
        self._writing = self.engine.execution_options(writes=True)
        self.reads = sessionmaker(self.engine)
        self.writes = sessionmaker(self._writing)
        try:
            self._migrate()
        except (DBAPIError, CommandError) as error:
            self.close()
            raise RegistryUnavailable(self.engine.url.render_as_string(), str(error)) from error

    def close(self) -> None:
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


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise RegistryUnavailable("(unreadable)", str(error)) from error
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        _configure_sqlite(engine)
        return engine
    return _server_engine(parsed)


def _server_engine(url: URL) -> Engine:
    shown = url.render_as_string()
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise RegistryUnavailable(shown, "only sqlite and postgresql are known")
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        reason = f"{error}; install the extra 'postgres'"
        raise RegistryUnavailable(shown, reason) from error


def _configure_sqlite(engine: Engine) -> None:
    """SQLite as a shared, durable database: WAL, synchronous, one writer at a time.

    Writing transactions take the write lock at their start. One that read first would fail when
    another wrote in between, instead of waiting for it.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
