"""A PostgreSQL server of the machine's own packages, for as long as the tests run."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

OWNER = "intarsia"  # of all databases
ICU_SINCE = 15  # the first version whose databases may be ordered by ICU

NewDatabase = Callable[[], str]


def postgres_programs() -> Path | None:
    """The directory of the newest installed server's programs."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return max(found, key=_version).parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def running_postgres(programs: Path) -> Iterator[NewDatabase]:
    """A server on a socket in a directory of its own; the function makes an empty database.

    Texts are ordered as English has it, which is not the order of code points.
    """
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        identity = _unprivileged(directory)

        def run(*command: str) -> None:
            subprocess.run(command, check=True, cwd=name, stdout=subprocess.DEVNULL, **identity)

        data, program = str(directory / "data"), {p.name: str(p) for p in programs.iterdir()}
        initial = ["--no-sync", "--auth=trust", f"--username={OWNER}", "--encoding=UTF8"]
        run(program["initdb"], "-D", data, *initial, *_order(programs))
        options = f"-k {name} -c listen_addresses='' -c fsync=off -c max_connections=50"
        log = str(directory / "log")
        run(program["pg_ctl"], "-D", data, "-w", "-o", options, "-l", log, "start")
        try:
            yield lambda: _new_database(name)
        finally:
            run(program["pg_ctl"], "-D", data, "-m", "immediate", "stop")


def _new_database(socket: str) -> str:
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(_url(socket, "postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return _url(socket, name)


def _url(socket: str, database: str) -> str:
    return f"postgresql+psycopg://{OWNER}@/{database}?host={socket}"


def _unprivileged(directory: Path) -> dict[str, Any]:
    """Whom to run as: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _order(programs: Path) -> list[str]:
    has_icu = _version(programs / "initdb") >= ICU_SINCE
    icu = ["--locale-provider=icu", "--icu-locale=en-US"]
    return ["--locale=C.UTF-8", *(icu if has_icu else [])]


def _version(program: Path) -> int:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+", told.stdout)
    return int(found[0]) if found else 0
