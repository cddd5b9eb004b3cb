"""Starts pwserver as a server under test, of this source tree or of another, and administers it.

What an administrator does is done by the commands of the same tree, so that a service is measured
as it is used. The loads of the book come from an application that is registered for them and has
its own book; an older tree that knows no applications lets guests do all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client.book import wants_a_token
from benchmarks.client.wire import Access, BenchmarkFailed, Ways
from benchmarks.servers.certificates import make_certificate
from benchmarks.servers.contenders import Postgres
from benchmarks.servers.distance import Distance
from benchmarks.servers.servers import PROJECT, Started, environment
from benchmarks.servers.usage import Usage

HOST = "127.0.0.1"
RIGHTS = "save,count,get,verify,list"
COMMAND = ("-m", "pwserver")
COMMAND_TIMEOUT_S = 60.0


class Service(Started):
    """A service on a fresh database in a folder, settings at their defaults but for `options`."""

    host = HOST
    """Where it listens."""

    authority = ""
    """The file with the certificate to trust, where it speaks TLS."""

    prefix: Sequence[str] = ()
    """What is to stand before its commands."""

    def __init__(
        self,
        name: str,
        directory: Path,
        options: Sequence[str] = (),
        tree: Path = PROJECT,
        program: Sequence[str] = COMMAND,
    ) -> None:
        self.database = directory / "user_data.db"
        self._tree = tree
        self._folder = directory
        serve = ["serve", "--host", self.host, "--port", "0", *self._files(), *options]
        command = [*self.prefix, sys.executable, *program, *serve]
        super().__init__(name, command, directory, tree)

    def ways(self) -> Ways:
        """Register an application, where there are any; return how the loads get in."""
        guest = Access(self.address, authority=self.authority)
        book = self.register("benchmark") if wants_a_token(guest) else guest
        return Ways(guest, book)

    def register(self, name: str) -> Access:
        """Register an application with a book of its own; return its way in."""
        token = self.administer("app", "add", name, "--may", RIGHTS).strip()
        return Access(self.address, token, self.authority)

    def administer(self, *command: str) -> str:
        """Run a command of the administrator, and return what it prints."""
        with self.begin(*command) as process:
            try:
                printed, said = process.communicate(timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise BenchmarkFailed(f"pwserver {' '.join(command)} took too long") from None
            finally:
                process.kill()
        if process.returncode:
            raise BenchmarkFailed(f"pwserver {' '.join(command)}: {said.strip()}")
        return printed

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """Start a command of the administrator."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, *COMMAND, *command, *self._files()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=environment(self._tree),
        )

    def _files(self) -> list[str]:
        key = self.database.with_suffix(".key")
        return ["--database", str(self.database), "--key-file", str(key)]


class ServiceWithToken(Service):
    """A service of which all that is asked comes from an application."""

    def ways(self) -> Ways:
        """Register the application; return how the loads get in."""
        application = self.register("benchmark")
        return Ways(application, application)


class ServiceOverTls(Service):
    """A service with a certificate, over which all goes that is asked of it."""

    def __init__(self, name: str, directory: Path, options: Sequence[str] = ()) -> None:
        cert, key = make_certificate(directory, HOST)
        self.authority = str(cert)
        tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
        super().__init__(name, directory, [*tls, *options])


class ServiceOnPostgres(Service):
    """A service whose book is on a PostgreSQL server of its own, set as the contender is.

    With `away_ms` it reaches the server through a program that delays everything by so much.
    """

    prefix = ("env", "PSYCOPG_IMPL=binary")  # this one needs it; see `environment`

    def __init__(
        self,
        name: str,
        directory: Path,
        options: Sequence[str] = (),
        away_ms: float | None = None,
    ) -> None:
        import psycopg  # noqa: PLC0415 - the other services do without

        home = directory.with_name(f"{directory.name}-server")
        home.mkdir()
        with ExitStack() as stack:
            self._server = stack.enter_context(Postgres(home, 0))
            self._reached_at = self._server.address
            with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE book TEMPLATE template0")
            if away_ms is not None:
                way = stack.enter_context(Distance(home, self._server.address, away_ms))
                self._reached_at = way.address
            super().__init__(name, directory, options)
            self._beside = stack.pop_all()

    def usage(self) -> Usage:
        """Return what the service and the server have taken so far."""
        return super().usage() + self._server.usage()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self._beside.close()

    def _url(self, database: str) -> str:
        address = self._reached_at
        return f"postgresql://postgres@{address.host}:{address.port}/{database}"

    def _files(self) -> list[str]:
        return ["--database", self._url("book")]


def check_tree(tree: Path) -> None:
    """Raise unless it is the code of `tree` that runs there: else we would measure ourselves."""
    print_place = [sys.executable, "-c", "import pwserver; print(pwserver.__file__)"]
    ran = subprocess.run(
        print_place, cwd=tree, env=environment(tree), capture_output=True, text=True, check=False
    )
    if not Path(ran.stdout.strip()).is_relative_to(tree / "pwserver"):
        raise BenchmarkFailed(f"{tree} is no source tree of pwserver: {ran.stdout}{ran.stderr}")
