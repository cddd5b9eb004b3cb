"""What clients notice of a program that takes over from another: nothing but a short wait.

    python -m tests.trials.take_over

Starts a service, and clients that save all the while: two that make a connection for each save, as
the basic contract's do, one that keeps its connection and sends the next save with the last reply,
a `Client` and an `AsyncClient` with a token, which must authenticate again. Meanwhile the listener
gets SIGUSR2 again and again, and a new program takes over each time. At the end all saves must have
been acknowledged, and the book must have as many users: none failed, none was lost or doubled.

It prints how long the slowest save took: so long nobody was served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.results.options import positive
from benchmarks.results.progress import messages, progress
from pwserver import AsyncClient, Client
from pwserver.server.instance import lock_path
from tests.support.harness import PATIENCE_S, SAVED, Peer, Service, eventually
from tests.support.processes import session
from tests.trials import report
from tests.trials.report import TrialFailed, percentile, print_table, verdict

_SAVE = {"message": "save_password", "password": "correct horse battery staple"}

KINDS = ("a connection each", "one connection", "Client", "AsyncClient")


class Load:
    """Clients of each kind that save until `total` saves are acknowledged."""

    def __init__(self, service: Service, total: int) -> None:
        self.done = 0
        self.times_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.failures: list[str] = []
        self._service = service
        self._url = service.url  # registers the application
        self._total = total
        self._lock = threading.Lock()
        tasks = (self._each, self._each, self._kept, self._client, self._async_client)
        self._threads = [threading.Thread(target=self._run, args=(task,)) for task in tasks]

    def start(self) -> None:
        """Begin to save."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the last reply."""
        for thread in self._threads:
            thread.join()

    @property
    def over(self) -> bool:
        """Whether enough is saved, or something failed."""
        return self.has_done(self._total)

    def has_done(self, saves: int) -> bool:
        """Tell whether so many are saved, or something failed."""
        return self.done >= saves or bool(self.failures)

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        with self._lock:
            self.done += 1
            self.times_s[kind].append(time.monotonic() - began)

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:
            self.failures.append(f"{task.__name__}: {type(error).__name__}: {error}")

    def _each(self) -> None:
        while not self.over:
            with self._timed("a connection each"), Peer(self._service.port) as peer:
                peer.send(_SAVE)
                _check(peer.line())

    def _kept(self) -> None:
        with Peer(self._service.port) as peer:
            while not self.over:
                with self._timed("one connection"):
                    peer.send(json.dumps(_SAVE).encode())  # the contract has no newline
                    _check(peer.line())

    def _client(self) -> None:
        with Client(self._url) as client:
            while not self.over:
                with self._timed("Client"):
                    client.save_password("abc123")

    def _async_client(self) -> None:
        async def save() -> None:
            async with AsyncClient(self._url) as client:
                while not self.over:
                    with self._timed("AsyncClient"):
                        await client.save_password("abc123")

        asyncio.run(save())


def _check(line: bytes) -> None:
    if line != SAVED:
        raise TrialFailed(f"a save was answered {line!r}")


def holder(service: Service) -> int:
    """Return the process that serves the book now."""
    with suppress(OSError, ValueError, IndexError):
        return int(lock_path(service.database).read_text().split()[0])
    return 0


def take_over(service: Service) -> int:
    """Have a new program take over, and wait for the old one's end; return the new process."""
    old = holder(service)
    os.kill(old, signal.SIGUSR2)
    eventually(lambda: holder(service) not in (0, old), "a new program serves")
    eventually(lambda: old not in session(service.process.pid), "the old program has ended")
    return holder(service)


def end(service: Service) -> None:
    """Stop the program that serves, whichever that is, and wait until all processes have ended."""
    if (pid := holder(service)) and pid in session(service.process.pid):
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not session(service.process.pid), "every process has ended")


def try_it(service: Service, saves: int, take_overs: int, told: Callable[[str], None]) -> Load:
    """Save, and have programs take over; raise what is not as it must be."""
    load = Load(service, saves)
    load.start()
    try:
        for number in range(take_overs):
            due = saves * (number + 1) // (take_overs + 1)
            eventually(partial(load.has_done, due), f"{due} saves", 10 * PATIENCE_S)
            told(f"take-over {number + 1}")
            take_over(service)
    finally:
        load.join()
    if load.failures:
        raise TrialFailed("; ".join(load.failures))
    with Peer(service.port) as peer:
        users = peer.count()
    if users != load.done:
        raise TrialFailed(f"{load.done} saves were acknowledged, and the book has {users} users")
    return load


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("take_over", __doc__)
    add = parser.add_argument
    add("--saves", type=positive, default=10_000, help="(default: %(default)s)")
    add("--take-overs", type=positive, default=5, help="(default: %(default)s)")
    return parser


def main() -> None:
    """Try it, and print how long clients waited."""
    options = command_line().parse_args()
    with verdict(), tempfile.TemporaryDirectory(prefix="pwserver-take-over-") as home:
        with Service(Path(home), "--list-users", "none") as service:
            service.wait_until_listening()
            try:
                with progress(options.take_overs) as told:
                    load = try_it(service, options.saves, options.take_overs, told)
            finally:
                end(service)
        rows = [
            [kind, f"{len(times):,}", *(f"{percentile(times, p) * 1000:.1f}" for p in (0.5, 1.0))]
            for kind, times in load.times_s.items()
        ]
        print_table("Milliseconds to a reply", ["clients", "saves", "p50", "worst"], rows)
        messages.print(f"{load.done:,} saves, {options.take_overs} take-overs")


if __name__ == "__main__":
    main()
