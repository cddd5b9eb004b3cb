"""Starts the servers that are not ours: Redis, PostgreSQL, FastAPI on uvicorn, Flask on gunicorn.

Each is durable as pwserver is: a save is on the disk when it is answered. Its settings are its
defaults but for what its class says. It begins with a number of users, who are brought in by the
fastest way that it has for that and not by the load generator; it ends with the run.

Nothing here measures, and how a server is talked to stands in `dialects.py`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.client.book import password_of
from benchmarks.client.dialects import REDIS_KEY, redis_command
from benchmarks.client.wire import Access, Address, BenchmarkFailed, Point, Ways
from benchmarks.servers import web_book
from benchmarks.servers.servers import PROJECT, Started

HOST = "127.0.0.1"
FILL_BATCH = 10_000
"""Users that Redis is sent with one command; a few hundred KiB."""

FILL_TIMEOUT_S = 600.0

PACKAGES = {
    "postgres": ("psycopg",),
    "fastapi": ("fastapi", "uvicorn", "uvloop", "httptools"),
    "gunicorn": ("flask", "gunicorn"),
}
"""What must be importable, by contender."""

DEBIAN_PLACE = "/usr/lib/postgresql"
RUNS_AS = "nobody"
INITDB_TIMEOUT_S = 120.0
INITDB_OPTIONS = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
NO_POSTGRES = "PostgreSQL is not installed; run: apt-get install postgresql"


class Contender(Started):
    """A server that is not ours: its dialect, and what it cannot be asked."""

    logged = True
    dialect = "http"
    closes = False
    pipelines = True

    def ways(self) -> Ways:
        """Return the one way in."""
        only = Access(self.address, dialect=self.dialect, closes=self.closes)
        return Ways(only, only)

    def takes(self, point: Point) -> bool:
        """Tell whether it answers as many requests in flight on one connection."""
        return self.pipelines or point.depth == 1


class Redis(Contender):
    """Redis with its defaults, but for a log that is synced before each answer, and no snapshots.

    Saves of several clients that arrive in one turn of its loop share a sync.
    """

    ready = re.compile(rb"Ready to accept connections")
    dialect = "redis"

    def __init__(self, home: Path, users: int) -> None:
        address = free_address()
        place = ["--bind", HOST, "--port", str(address.port), "--dir", str(home)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        # Protected mode takes none but 127.0.0.1; the load comes from all of the loopback network.
        command = ["redis-server", *place, "--protected-mode", "no", *durable]
        self._users = users
        super().__init__("redis", command, home, address=address)
        self.banner = "Redis, appendfsync always"

    def fill(self) -> None:
        """Append the users to the list, thousands with a command."""
        with self.address.connect(FILL_TIMEOUT_S) as connection, connection.makefile("rb") as reply:
            for first in range(0, self._users, FILL_BATCH):
                batch = range(first, min(first + FILL_BATCH, self._users))
                connection.sendall(redis_command("RPUSH", REDIS_KEY, *map(password_of, batch)))
                if (number := reply.readline()) != b":%d\r\n" % batch.stop:
                    raise BenchmarkFailed(f"redis has {number!r} users, not {batch.stop}")


class Postgres(Contender):
    """PostgreSQL with its defaults, but for room for 1,100 connections, and TCP on loopback alone.

    `fsync` and `synchronous_commit` are on, which is the default of both and is said to it all the
    same. Whoever connects is trusted, so every user of the machine may do with it what they like.
    """

    ready = re.compile(rb"database system is ready to accept connections")
    dialect = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for clients to go

    def __init__(self, home: Path, users: int) -> None:
        programs = find_programs()
        if programs is None:
            raise BenchmarkFailed(NO_POSTGRES)
        data, as_owner = make_cluster(programs, home)
        address = free_address()
        settings = {
            "listen_addresses": HOST,
            "port": address.port,
            "unix_socket_directories": "",
            "max_connections": 1100,
            "fsync": "on",
            "synchronous_commit": "on",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [*as_owner, str(programs / "postgres"), "-D", str(data), *flags]
        self._users = users
        super().__init__("postgres", command, home, address=address)
        self.banner = "PostgreSQL, fsync and synchronous_commit on"

    def fill(self) -> None:
        """Make the table and its users, and leave it as autovacuum would in time."""
        import psycopg  # noqa: PLC0415 - the other contenders do without

        where = f"host={HOST} port={self.address.port} user=postgres dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE users (id bigserial PRIMARY KEY, password text NOT NULL, "
                "saved_at timestamptz NOT NULL)"
            )
            connection.execute(
                "INSERT INTO users (password, saved_at) "
                "SELECT lpad(n::text, 8, '0') || '-Tr0ub4dor&3', now() "
                "FROM generate_series(0, %s::bigint - 1) AS n",
                (self._users,),
            )
            connection.execute("VACUUM ANALYZE users")
            connection.execute("CHECKPOINT")


class WebApplication(Contender):
    """A Python module that serves a web application, on a database with users in it."""

    pipelines = False

    def __init__(self, name: str, module: Sequence[str], home: Path, users: int) -> None:
        database = home / f"{name}.db"
        web_book.make(database, users)
        variable = f"{web_book.DATABASE_VARIABLE}={database}"
        super().__init__(name, ["env", variable, sys.executable, "-m", *module], home)


class FastApi(WebApplication):
    """FastAPI on uvicorn with uvloop and httptools, without a log of requests.

    One process: two answered 0.8 to 1.1 times as much at 8 and 64 connections on 2 cores, and the
    slowest hundredth waited twice as long, as more threads are at the lock of the database.
    """

    ready = re.compile(rb"Uvicorn running on http://(?P<address>\S+:\d+)")
    stop_codes = (0, -signal.SIGTERM)  # uvicorn cleans up, and then lets the signal end it

    def __init__(self, home: Path, users: int) -> None:
        place = ["--app-dir", str(PROJECT), "--host", HOST, "--port", "0"]
        speed = ["--workers", "1", "--loop", "uvloop", "--http", "httptools"]
        app = "benchmarks.servers.fastapi_app:app"
        module = ["uvicorn", app, *place, *speed, "--no-access-log"]
        super().__init__("fastapi", module, home, users)
        self.banner = "FastAPI on uvicorn"


class Gunicorn(WebApplication):
    """Flask on gunicorn's sync workers, as many as gunicorn advises: two a core, and one.

    They close each connection after its reply.
    """

    ready = re.compile(rb"Listening at: http://(?P<address>\S+:\d+)")
    closes = True

    def __init__(self, home: Path, users: int) -> None:
        workers = 2 * (os.cpu_count() or 1) + 1
        place = ["--pythonpath", str(PROJECT), "--bind", f"{HOST}:0", "--no-control-socket"]
        app = "benchmarks.servers.flask_app:app"
        module = ["gunicorn", app, *place, "--workers", str(workers)]
        super().__init__("gunicorn", module, home, users)
        self.banner = f"Flask on gunicorn, {workers} sync workers"


def missing() -> dict[str, str]:
    """Return which contenders cannot run here, and what to do about it."""
    found = {}
    if shutil.which("redis-server") is None:
        found["redis"] = "redis-server is not installed; run: apt-get install redis-server"
    if find_programs() is None:
        found["postgres"] = NO_POSTGRES
    for name, packages in PACKAGES.items():
        lacking = [each for each in packages if importlib.util.find_spec(each) is None]
        if lacking and name not in found:
            found[name] = f"{', '.join(lacking)} cannot be imported; run: pip install '.[bench]'"
    return found


STARTERS: dict[str, Callable[[Path, int], Contender]] = {
    "fastapi": FastApi,
    "gunicorn": Gunicorn,
    "redis": Redis,
    "postgres": Postgres,
}
"""What starts each in a folder, with so many users."""


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: Debian has them apart, one for each version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    there = [path.parent for path in Path(DEBIAN_PLACE).glob("*/bin/initdb")]
    return max(there, key=lambda path: float(path.parent.name), default=None)


def make_cluster(programs: Path, home: Path) -> tuple[Path, list[str]]:
    """Make a folder of data; return it, and what is to stand before commands that use it.

    PostgreSQL refuses to run as root. So for root that is what changes to `nobody`: not to the user
    `postgres`, who may have other databases, since whoever connects to ours is trusted.
    """
    data = home / "data"
    data.mkdir(mode=0o700)
    as_owner = _hand_over(data) if os.geteuid() == 0 else []
    ran = subprocess.run(
        [*as_owner, str(programs / "initdb"), "-D", str(data), *INITDB_OPTIONS],
        cwd=data,
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        raise BenchmarkFailed(f"PostgreSQL's initdb failed: {ran.stderr.strip()}")
    return data, as_owner


def _hand_over(data: Path) -> list[str]:
    """Give the folder to its user, and a way there: a run's own folder lets nobody through."""
    owner = pwd.getpwnam(RUNS_AS)
    os.chown(data, owner.pw_uid, owner.pw_gid)
    for folder in (data.parent, data.parent.parent):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]


def free_address() -> Address:
    """Return a place on loopback where nobody listens, for servers that want to be told one."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return Address(HOST, probe.getsockname()[1])
