"""Starts and stops servers under test, and keeps their output from slowing them down.

Each runs in a session of its own, so that Ctrl-C reaches only the load test, which then stops the
servers, and so that whatever a server leaves behind can be swept up by its process group. The
settings measured are the defaults: variables of the environment that would change them are not
passed on, and the listing that `number_of_users` prints is not turned off. It is read from its pipe
by a thread that moves it to /dev/null with `splice` when the processors have nothing else to do:
whole pages change hands inside the kernel, so a listing of a million users costs the load test no
copy and no disk, and the server never blocks for long. What is special to pwserver is in
`service.py`.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from wire import Access, Address, BenchmarkFailed, Ways

BENCHMARKS = Path(__file__).resolve().parent
PROJECT = BENCHMARKS.parent
LISTENING = re.compile(rb" listening on (\S+:\d+)")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
"""Past the service's own deadline for finishing what it received."""

KILL_TIMEOUT_S = 5.0
"""How long a server may take to stop when the run has failed anyway."""

QUIET_S = 0.3
QUIET_TIMEOUT_S = 60.0
"""A listing still being printed is waited for up to this long, then measured over."""

PIPE_BYTES = 1 << 20


class Target(Protocol):
    """A server that load can be put on."""

    @property
    def name(self) -> str:
        """What tables and files call it."""

    @property
    def banner(self) -> str:
        """What it said of itself when it was ready."""

    def ways(self) -> Ways:
        """Return how the loads get in. To be called once, when it runs."""

    def settle(self) -> None:
        """Wait until it has finished what earlier load left it to do."""

    def __enter__(self) -> Self: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None: ...


@dataclass(frozen=True)
class Running:
    """A server that somebody else runs: it is used, and left alone."""

    address: Address
    token: str = field(default="", repr=False)
    name: str = "pwserver"
    banner: str = "started by somebody else"

    def ways(self) -> Ways:
        """Return the way of a guest, and that of the application whose token there is."""
        guest = Access(self.address)
        return Ways(guest, Access(self.address, self.token))

    def settle(self) -> None:
        """Pause: what it prints goes where this process cannot see it."""
        time.sleep(QUIET_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        pass


class Started:
    """A server of this run, from its first line to its exit; use it as a context manager."""

    def __init__(
        self, name: str, arguments: list[str], directory: Path, tree: Path = PROJECT
    ) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pipesize=PIPE_BYTES,
                cwd=tree,
                env=environment(tree),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._printed_s = time.monotonic()
        try:
            line, self.address = self._ready()
            self.banner = f"{line} ({_revision(tree)})"
        except BaseException:
            self._kill()
            raise
        self._drain = threading.Thread(target=self._discard, name=f"output of {name}", daemon=True)
        self._drain.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        died = self._process.poll() is not None
        code = self._stop(STOP_TIMEOUT_S if error is None else KILL_TIMEOUT_S)
        self._kill()
        self._drain.join(KILL_TIMEOUT_S)
        how = "did not stop when told to" if code is None else f"ended with exit code {code}"
        if isinstance(error, BenchmarkFailed) and died:
            raise BenchmarkFailed(f"{error}; {self.name} {how}{self._last_words()}") from error
        if error is None and code != 0:
            raise BenchmarkFailed(f"{self.name} {how}{self._last_words()}")

    def ways(self) -> Ways:
        """Return the one way in."""
        only = Access(self.address)
        return Ways(only, only)

    def settle(self) -> None:
        """Wait until it has printed nothing for a while: the listing of users is over."""
        deadline_s = time.monotonic() + QUIET_TIMEOUT_S
        while True:
            quiet_in_s = self._printed_s + QUIET_S - time.monotonic()
            if quiet_in_s <= 0 or time.monotonic() > deadline_s:
                return
            time.sleep(quiet_in_s)

    def _ready(self) -> tuple[str, Address]:
        """Read the first line of output, which says where the server listens."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        output = b""
        while b"\n" not in output:
            left_s = max(deadline_s - time.monotonic(), 0)
            readable, _, _ = select.select([self._output], [], [], left_s)
            data = os.read(self._output, 4096) if readable else b""
            if not data:
                how = "ended before it listened" if readable else "did not listen in time"
                raise BenchmarkFailed(f"{self.name} {how}{self._last_words()}")
            output += data
        line = output.partition(b"\n")[0]
        found = LISTENING.search(line)
        if not found:
            raise BenchmarkFailed(f"{self.name} did not say where it listens, but {line!r}")
        return line.decode(), Address.parse(found[1].decode())

    def _discard(self) -> None:
        """Move everything else it prints to /dev/null, and note when it printed last."""
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # this thread alone
        null = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            while os.splice(self._output, null, PIPE_BYTES):
                self._printed_s = time.monotonic()
        os.close(null)

    def _stop(self, timeout_s: float) -> int | None:
        """Ask it to stop; return its exit code, or None if it takes too long."""
        self._process.send_signal(signal.SIGTERM)
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
    """Return the environment, with the code of `tree` in it and no setting of the service."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PWSERVER_")}
    return {**kept, "PYTHONPATH": str(tree)}


def _revision(tree: Path) -> str:
    """Return the commit of `tree`, if git knows it."""
    describe = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    try:
        ran = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return str(tree)
    return f"{tree} at {ran.stdout.strip()}"


def start_baseline(directory: Path, processes: int) -> Started:
    """Start the straightforward version on a fresh database, able to serve `processes` at once."""
    script = str(BENCHMARKS / "baseline_pool.py")
    database = str(directory / "baseline.db")
    arguments = [script, "--database", database, "--processes", str(processes)]
    return Started("baseline", arguments, directory)


def start_null(directory: Path) -> Started:
    """Start the server that answers constants."""
    return Started("null", [str(BENCHMARKS / "null_server.py")], directory)
