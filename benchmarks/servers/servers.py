"""Starts and stops servers under test, and keeps their output from slowing them down.

Each runs in a session of its own, so that Ctrl-C reaches only the load test, which then stops the
servers, and so that a process group has all that a server leaves behind. It is ready when it prints
the line that says so.

The settings measured are the defaults: variables of the environment that would change them are not
passed on, and `number_of_users` prints its listing. A thread moves that to /dev/null with `splice`
when the processors are idle, so a listing of a million users costs no copy and the server never
blocks for long. `service.py` has what is special to pwserver, `contenders.py` the other programs.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.client.wire import Access, Address, BenchmarkFailed, Point, Ways
from benchmarks.servers import web_book
from benchmarks.servers.usage import Usage

PROJECT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(rb"(?m)^.* listening on (?P<address>\S+:\d+).*\n")

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
"""Past the service's own deadline for finishing what it received."""

KILL_TIMEOUT_S = 5.0
"""How long a server may take to stop when the run has failed anyway."""

QUIET_S = 0.3
QUIET_TIMEOUT_S = 60.0
"""A listing still being printed is waited for up to this long, then measured over."""

PIPE_BYTES = 1 << 20


class Target:
    """A server that load can be put on; use it as a context manager."""

    name: str
    """What tables and files call it."""

    banner: str
    """What it said of itself when it was ready."""

    address: Address

    def ways(self) -> Ways:
        """Return how the loads get in. To be called once, when it runs."""
        only = Access(self.address)
        return Ways(only, only)

    def takes(self, point: Point) -> bool:
        """Tell whether a point can be measured on it."""
        return True

    def settle(self) -> None:
        """Wait until it has finished what earlier load left it to do."""

    def usage(self) -> Usage:
        """Return what all its processes have taken so far."""
        raise BenchmarkFailed(f"the processes of {self.name} are not known")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None: ...


class Running(Target):
    """A server that somebody else runs: it is used, and left alone."""

    name = "pwserver"
    banner = "started by somebody else"

    def __init__(self, address: Address, token: str) -> None:
        self.address = address
        self._token = token

    def ways(self) -> Ways:
        """Return the way of a guest, and that of the application whose token there is."""
        return Ways(Access(self.address), Access(self.address, self._token))

    def settle(self) -> None:
        """Pause: what it prints goes where this process cannot see it."""
        time.sleep(QUIET_S)


class Started(Target):
    """A server of this run, from its first line to its exit.

    `address` is where it was told to listen, if it was told; else its line says where it does.
    `exec_s` is when it was started, and `listening_s` when that line came, as `time.monotonic`.
    """

    ready = LISTENING
    """The line that it prints when it listens; with the address, unless that was given."""

    logged = False
    """Whether all that it prints belongs in its log: as a rule it is the listing of users."""

    stop_signal = signal.SIGTERM
    stop_codes: Sequence[int] = (0,)
    """What it may end with when it was told to stop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        tree: Path = PROJECT,
        address: Address | None = None,
    ) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        self._sink = open(self._log if self.logged else os.devnull, "wb", buffering=0)  # noqa: SIM115
        described = f"{tree} at {revision(tree) or 'no commit'}"
        self.exec_s = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if self.logged else log,
                pipesize=PIPE_BYTES,
                cwd=directory,
                env=environment(tree),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        self._printed_s = time.monotonic()
        try:
            found = self._ready()
            self.listening_s = time.monotonic()
            self.address = address or Address.parse(found["address"].decode())
            self.banner = f"{found[0].decode().strip()} ({described})"
            self.fill()
        except BaseException:
            self._kill()
            self._stdout.close()
            self._sink.close()
            raise
        self._drain = threading.Thread(target=self._discard, name=f"output of {name}", daemon=True)
        self._drain.start()

    def fill(self) -> None:
        """Bring in the users it is to have from the start, now that it listens."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        died = self._process.poll() is not None
        code = self._stop(STOP_TIMEOUT_S if error is None else KILL_TIMEOUT_S)
        self._kill()
        self._drain.join(KILL_TIMEOUT_S)
        self._stdout.close()
        how = "did not stop when told to" if code is None else f"ended with exit code {code}"
        if isinstance(error, BenchmarkFailed) and died:
            raise BenchmarkFailed(f"{error}; {self.name} {how}{self._last_words()}") from error
        if error is None and code not in self.stop_codes:
            raise BenchmarkFailed(f"{self.name} {how}{self._last_words()}")

    def usage(self) -> Usage:
        """Return what all its processes have taken so far."""
        return Usage.of(self._process.pid)

    def settle(self) -> None:
        """Wait until it has printed nothing for a while: the listing of users is over."""
        deadline_s = time.monotonic() + QUIET_TIMEOUT_S
        while True:
            quiet_in_s = self._printed_s + QUIET_S - time.monotonic()
            if quiet_in_s <= 0 or time.monotonic() > deadline_s:
                return
            time.sleep(quiet_in_s)

    def _ready(self) -> re.Match[bytes]:
        """Read what it prints up to the line that says it listens, and return that."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        printed = select.poll()  # not `select`, which knows 1,024 descriptors only
        printed.register(self._stdout, select.POLLIN)
        output = b""
        while not (found := self.ready.search(output)):
            left_s = max(deadline_s - time.monotonic(), 0)
            readable = printed.poll(left_s * 1000)
            data = os.read(self._stdout.fileno(), 4096) if readable else b""
            if not data:
                how = "ended before it listened" if readable else "did not listen in time"
                raise BenchmarkFailed(f"{self.name} {how}{self._last_words()}")
            self._sink.write(data)
            output += data
        return found

    def _discard(self) -> None:
        """Move everything else it prints to where it goes, and note when it printed last."""
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # this thread alone
        with self._sink as sink, suppress(OSError):
            while os.splice(self._stdout.fileno(), sink.fileno(), PIPE_BYTES):
                self._printed_s = time.monotonic()

    def _stop(self, timeout_s: float) -> int | None:
        """Ask it to stop; return its exit code, or None if it takes too long."""
        self._process.send_signal(self.stop_signal)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _kill(self) -> None:
        """End what is left of it: itself, if it did not stop, and any process it left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        words = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        return "".join(f"\n    {word}" for word in words)


def environment(tree: Path) -> dict[str, str]:
    """Return the environment, with the code of `tree` in it and no setting of the service.

    psycopg, which the load generator needs, gets an implementation that does not exist, so that it
    cannot be imported. Otherwise peewee imports it, which costs each process 5 MiB and the start
    70 ms that nobody pays who installs the service alone.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PWSERVER_")}
    return {**kept, "PYTHONPATH": str(tree), "PSYCOPG_IMPL": "none"}


def revision(tree: Path) -> str:
    """Return the commit of `tree`, or nothing if git does not know it."""
    return output_of("git", "-C", str(tree), "describe", "--always", "--dirty")


def output_of(*command: str) -> str:
    """Return what a program prints, or nothing if it is not there or fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return ran.stdout.strip()


class Baseline(Started):
    """The straightforward version on a database of its own, for so many connections at once."""

    def __init__(self, directory: Path, processes: int, users: int) -> None:
        self._processes = processes
        database = directory / "baseline.db"
        web_book.make(database, users, {"journal_mode": "wal"})
        options = ["--database", str(database), "--processes", str(processes)]
        command = [sys.executable, "-m", "benchmarks.servers.baseline_pool", *options]
        super().__init__("baseline", command, directory)

    def takes(self, point: Point) -> bool:
        """Tell whether there is a process for each connection, and one for a question beside."""
        return point.connections < self._processes


def start_null(directory: Path) -> Started:
    """Start the server that answers constants."""
    command = [sys.executable, "-m", "benchmarks.servers.null_server"]
    return Started("null", command, directory)
