"""The client processes as the run sees them: started once, they do one job at a time.

They are started before any clock and kept for the whole run, so that no measurement pays for an
interpreter or an import. Each gets its share of a job's connections over a pipe, reports when it is
connected, and all start at a given time; with a barrier, one that cannot connect would block the
others. A client process reads EOF and ends when the run is gone.
"""

from __future__ import annotations

import itertools
import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess

from benchmarks.client.client_process import client_main
from benchmarks.client.generator import (
    CONNECT_TIMEOUT_S,
    NEVER_NS,
    STALL_TIMEOUT_S,
    WITHOUT_LIMIT,
    Clock,
    Outcome,
)
from benchmarks.client.wire import Access, BenchmarkFailed, Job, Point, shares

HEAD_START_S = 0.05
"""Between the last client's "ready" and the start, so that the news reaches all of them in time."""

PATIENCE_S = 2 * STALL_TIMEOUT_S
"""How long the client processes may take beyond the clock to wait for their last replies. Longer
than their own patience with a silent server, so that what is shown is their message."""

PRELOAD_TIMEOUT_S = 3600.0
STOP_TIMEOUT_S = 5.0

PRELOAD_SIZE = (8, 64)
"""Connections, and requests in flight on each, that fill a password book: enough for any server to
commit many together."""


class Clients:
    """A number of client processes; use it as a context manager, which ends them."""

    def __init__(self, processes: int) -> None:
        self._pipes: list[Pipe] = []
        self._processes: list[SpawnProcess] = []
        self._run_salt = secrets.token_hex(2)
        self._job_numbers = itertools.count()
        # Ctrl-C reaches every process of the terminal; the clients are to leave it to the run, and
        # inherit that from their first instruction on.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for index in range(processes):
            self._start(f"load client {index + 1}")
        signal.signal(signal.SIGINT, handler)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if error is None:
                process.join(STOP_TIMEOUT_S)
            process.kill()
            process.join()

    def _start(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=client_main, args=(theirs,), name=name, daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def measure(
        self,
        access: Access,
        point: Point,
        users: int,
        times_s: tuple[float, float],
        connected: Callable[[], None] | None = None,
    ) -> Outcome:
        """Put the load of `point` on the server and return what all client processes saw.

        `users` is how many were prepared, for the loads that work on them; `times_s` are those of
        the warm-up and of what is measured. `connected` is called when all connections are open
        and nothing was asked yet.
        """
        pipes = self._connect(access, point, users, WITHOUT_LIMIT)
        if connected:
            connected()
        warmup_s, seconds = times_s
        start_ns = time.perf_counter_ns() + int(HEAD_START_S * 1e9)
        measure_ns = start_ns + int(warmup_s * 1e9)
        clock = Clock(start_ns, measure_ns, measure_ns + int(seconds * 1e9))
        return self._run(pipes, clock, warmup_s + seconds + PATIENCE_S)

    def fill(self, access: Access, load: str, users: int) -> Outcome:
        """Save users as fast as the server takes them: by "save" without names, or by `PREPARE`."""
        pipes = self._connect(access, Point(load, *PRELOAD_SIZE), users, users)
        clock = Clock(time.perf_counter_ns(), NEVER_NS, NEVER_NS)
        return self._run(pipes, clock, PRELOAD_TIMEOUT_S)

    def _connect(self, access: Access, point: Point, users: int, requests: int) -> list[Pipe]:
        """Hand each client process its share of a job; return the pipes of those that have one."""
        connections = [share for share in shares(point.connections, len(self._pipes)) if share]
        busy = self._pipes[: len(connections)]
        limits = shares(requests, len(busy))
        firsts = itertools.accumulate(limits, initial=0)
        salt = f"{self._run_salt}.{next(self._job_numbers)}"
        for index, (pipe, limit, first) in enumerate(zip(busy, limits, firsts, strict=False)):
            job = Job(access, point, connections[index], limit, f"{salt}.{index}", users, first)
            pipe.send(job)
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S + PATIENCE_S
        for pipe in busy:
            _receive(pipe, deadline_s)
        return busy

    def _run(self, pipes: list[Pipe], clock: Clock, timeout_s: float) -> Outcome:
        """Start the clock of the client processes that are connected and add up what they saw."""
        for pipe in pipes:
            pipe.send(clock)
        deadline_s = time.monotonic() + timeout_s
        outcomes = [_receive(pipe, deadline_s) for pipe in pipes]
        return Outcome.merged([outcome for outcome in outcomes if outcome])


def _receive(pipe: Pipe, deadline_s: float) -> Outcome | None:
    """Wait for a client process's next word; raise what it says went wrong."""
    try:
        if not pipe.poll(max(deadline_s - time.monotonic(), 0)):
            raise BenchmarkFailed("a client process did not finish in time")
        word: Outcome | str | None = pipe.recv()
    except EOFError:
        raise BenchmarkFailed("a client process died") from None
    if isinstance(word, str):
        raise BenchmarkFailed(word)
    return word
