"""What counting costs: saves by a worker that counts and by one that does not, turn by turn.

    python benchmarks/costs/counting.py

Both are whole workers of this process, each with a database, and take turns of some milliseconds,
so that whatever slows the machine slows both. What is compared is the processor's time of a save
from its receipt to its reply, with its commit but without waiting for the disk, which would hide
the difference. "Without" a call that does nothing remains in place of each that counts.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started by its path

from benchmarks.costs.parts import HOST, KEYRING, context_of
from pwserver.accepted import Accepted, shown_address
from pwserver.config import Settings
from pwserver.tally import Tally
from workers.auth.throttle import GuessTable
from workers.auth.usage import UsageTable
from workers.loop import Loop, WorkerStart
from workers.storage.sqlite.committing import SqliteCommitter
from workers.worker import WRITES
from workers.writer import Writer

SAVE = b'{"message": "save_password", "password": "abc123def456"}\n'
REPLY = b'{"message": "Password saved!"}\n'
SHAPES = {"1": (1, 1, 500), "64": (64, 1, 40), "8x64": (8, 64, 10)}
"""Connections, requests in flight on each, and turns of a measurement."""


class Nothing(Tally):
    """Counts nothing."""

    def answer_later(self, *_: object) -> None:
        """Do nothing."""

    def sent_replies(self, since: float) -> None:
        """Do nothing."""

    def did(self, application: int, kind: int, number: int) -> None:
        """Do nothing."""

    def commit(self, changes: int, took_us: int) -> None:
        """Do nothing."""

    def publish(self, *_: int) -> None:
        """Do nothing."""


class Subject:
    """A worker that writes, and connections of clients to it."""

    def __init__(self, folder: Path, tally: Tally, connections: int) -> None:
        path = folder / "user_data.db"
        context = context_of(path)
        context.tally = tally
        committer = SqliteCommitter(path, KEYRING.check_values, 1000, context.scoreboard)
        committer.tally = tally
        committer.connect().pragma("synchronous", "off")
        settings = Settings(database=str(path))
        tables = GuessTable(1), UsageTable(1)
        start = WorkerStart(WRITES, 1, settings, KEYRING, None, *tables, settings.connections_max)
        control, self._listener = socket.socketpair()
        self._worker = Loop(control, context, start, Writer(committer))
        self._clients: list[socket.socket] = []
        self._events: list[tuple[int, int]] = []
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            served, address = listener.accept()
        served.setblocking(False)
        connection = self._worker.connect(Accepted(served, shown_address(address)))
        self._clients.append(client)
        self._events.append((connection.fd, select.EPOLLIN))

    def save_ns(self, depth: int, turns: int) -> float:
        """Return the processor's time of a save, in nanoseconds."""
        used_ns = 0
        for _ in range(turns):
            for client in self._clients:
                client.sendall(SAVE * depth)
            began_ns = time.process_time_ns()
            self._worker._turn(self._events)
            while self._worker._has_work:
                self._worker._turn([])
            used_ns += time.process_time_ns() - began_ns
            for client in self._clients:
                received = b""
                while len(received) < depth * len(REPLY):
                    received += client.recv(65536)
                assert received == REPLY * depth
        began_ns = time.process_time_ns()
        self._worker._publish()  # as at a tick: what the turns have noted is sorted
        used_ns += time.process_time_ns() - began_ns
        return used_ns / (turns * depth * len(self._clients))


def pairs(shape: str, rounds: int, *, counts_first: bool) -> Iterator[tuple[float, float]]:
    """Yield the time of a save with counting and without, round by round.

    Of two subjects that are the same, the one that was made first may differ by 2 %.
    """
    connections, depth, turns = SHAPES[shape]
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        kinds = [Tally, Nothing] if counts_first else [Nothing, Tally]
        made = [
            Subject(*each, connections)
            for each in zip(folders, [kind() for kind in kinds], strict=False)
        ]
        counting, other = made if counts_first else made[::-1]
        gc.collect()
        gc.freeze()
        for place in range(rounds + 3):
            both = [counting, other] if place % 2 else [other, counting]
            took = {each: each.save_ns(depth, turns) for each in both}
            if place >= 3:
                yield took[counting], took[other]


def main() -> None:
    """Measure each shape and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    for shape in SHAPES:
        found = [list(pairs(shape, rounds, counts_first=first)) for first in (True, False)]
        # Whatever else runs makes a round longer, and none shorter: so the least of them count.
        least = [[min(times) for times in zip(*each, strict=True)] for each in found]
        share = statistics.mean(one / other for one, other in least) - 1
        without_us = min(other for _, other in least) / 1000
        print(f"{shape:>5}: {without_us:.2f} us a save without counting; with it {share:+.1%}")


if __name__ == "__main__":
    main()
