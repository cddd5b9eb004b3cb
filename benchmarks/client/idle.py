"""Connections on which nobody says anything, held by a process of their own.

The client processes that make the load are then the same with them and without. Linux finds their
ports among the 28,232 of a loopback address, so 20,000 are about as many as can be held beside a
load.
"""

from __future__ import annotations

import multiprocessing
import select
import signal
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection as Pipe

from benchmarks.client.client_process import allow_many_files
from benchmarks.client.wire import Access, BenchmarkFailed

CONNECT_TIMEOUT_S = 30.0
PATIENCE_S = 120.0
"""How long all connections together may take to be opened."""

STOP_TIMEOUT_S = 10.0


class Idle:
    """So many silent connections to a server; a context manager, open when it is entered.

    Leaving it raises `BenchmarkFailed` if the server has closed any of them meanwhile.
    """

    def __init__(self, access: Access, connections: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        job = (theirs, access, connections)
        self._process = context.Process(target=_hold, args=job, name="idle clients", daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process inherits
        self._process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()

    def __enter__(self) -> Idle:
        try:
            self._hear(PATIENCE_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is None:
                self._pipe.send(None)
                self._hear(STOP_TIMEOUT_S)
        finally:
            self._end()

    def _hear(self, timeout_s: float) -> None:
        """Wait for the process's next word, which is what went wrong, or None."""
        try:
            if not self._pipe.poll(timeout_s):
                raise BenchmarkFailed("the process with the idle connections takes too long")
            failure: str | None = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise BenchmarkFailed("the process with the idle connections died") from None
        if failure:
            raise BenchmarkFailed(failure)

    def _end(self) -> None:
        self._pipe.close()
        self._process.join(STOP_TIMEOUT_S)
        self._process.kill()
        self._process.join()


def _hold(pipe: Pipe, access: Access, connections: int) -> None:
    """Open the connections, say so, and keep them until the run speaks again, or is gone."""
    allow_many_files()
    silent = select.poll()
    with ExitStack() as stack:
        try:
            for _ in range(connections):
                link = stack.enter_context(closing(access.link(CONNECT_TIMEOUT_S)))
                silent.register(link.fileno(), select.POLLIN | select.POLLRDHUP)
        except (OSError, BenchmarkFailed) as error:
            pipe.send(f"an idle connection could not be opened: {error}")
            return
        pipe.send(None)
        try:
            pipe.recv()
        except EOFError:
            return
        disturbed = len(silent.poll(0))
        pipe.send(f"{disturbed:,} idle connections did not stay open" if disturbed else None)
