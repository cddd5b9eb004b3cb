"""The parts of the service as `costs.py` measures them: alone, without other processes.

The requests are those of an application that may do everything, in a book of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.client import book
from benchmarks.fill import insert_users
from pwserver.accepted import Accepted, shown_address
from pwserver.config import Settings
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECKPOINT_PAGES
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS
from workers.audit.record import AuditLog
from workers.auth.applications import ANYBODY, KNOWN, Caller, Registry
from workers.auth.throttle import GuessTable, Throttle
from workers.book.keyring import KEY_BYTES, Keyring, MasterKey
from workers.book.models import IdClock
from workers.book.vault import Vault
from workers.serving.checks import Checks
from workers.serving.commit_queue import DONE, CommitQueue
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.serving.name_queues import NameQueues
from workers.storage.sqlite.database import Store
from workers.storage.sqlite.reading import BookReader, ReadingConnection

HOST = "127.0.0.1"
BURST = 64

GOOD = (b'{"message": "', b'{"message":"return_', b'{"message":"Password saved!"')
"""What a reply begins with, where nothing is wrong."""

KEY = MasterKey(1, Secret(bytes(range(KEY_BYTES))))
"""The same in all processes that measure, because they open the same databases."""

KEYRING = Keyring({KEY.id: KEY}, Secret(bytes(KEY_BYTES)))

BOOK = 1
CALLER = Caller("benchmark", BOOK, list(RIGHTS), frozenset({ANYBODY, KNOWN, *RIGHTS}))


def context_of(path: Path) -> Context:
    """Return what a worker's commands work with, on a database that may be there."""
    scoreboard = Scoreboard(2)
    scoreboard.opened()
    bell, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)  # nobody listens; full, it is passed over
    reader = BookReader(scoreboard, ReadingConnection(path).connect)
    commit_queue = CommitQueue()
    record = path.with_suffix(".audit"), path.with_suffix(".audit-head")
    return Context(
        vault=Vault(KEYRING),
        key_path=path.with_suffix(".key"),
        ids=IdClock(1),
        commit_queue=commit_queue,
        name_queues=NameQueues(commit_queue, save_timeout_s=1.0),
        reader=reader,
        registry=Registry(reader, KEYRING, path.with_suffix(".revisions")),
        audit=AuditLog(*record, KEYRING.for_purpose("audit")),
        throttle=Throttle(GuessTable(1), 1),
        checks=Checks(1.0),
        scoreboard=scoreboard,
        bell=bell,
        parts={},
        versions_kept=Settings().versions_kept,
    )


def connect(context: Context) -> tuple[socket.socket, Connection]:
    """Return both ends of a connection: the client's, and what the worker makes of its own."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, address = listener.accept()
    served.setblocking(False)
    connection = Connection(Accepted(served, shown_address(address)), context, Settings(), set())
    connection.peer.become(CALLER)
    return client, connection


def turn(context: Context, bursts: Iterable[bytes]) -> Callable[[], None]:
    """Return what a worker does with a burst of requests on one connection.

    The writer's part is left out: what is queued for it counts as done at once.
    """
    client, connection = connect(context)
    unsent = iter(bursts)

    def do() -> None:
        client.send(next(unsent))
        _begin_turn(context)
        connection.receive()
        for batch in context.commit_queue.take():
            batch.outcome = DONE
        for batch in context.commit_queue.answered():
            for run in batch.runs:
                run.settle(DONE)
        assert context.audit.write()
        connection.flush()
        _receive_good(client)

    return do


def _begin_turn(context: Context) -> None:
    """Let a worker's parts know what time it is."""
    now_ns = time.time_ns()
    context.now_ms = now_ns // 1_000_000
    context.ids.advance(now_ns)
    context.now = time.monotonic()


def _receive_good(client: socket.socket) -> None:
    """Take replies; make sure that they are what they should be."""
    replies = client.recv(65536)
    assert replies.startswith(GOOD), replies[:200]


def recording(context: Context, number: int) -> Callable[[], None]:
    """Return what records so many readings of one turn."""

    def record() -> None:
        now_ms = time.time_ns() // 1_000_000
        for _ in range(number):
            context.audit.note(
                time_ms=now_ms,
                application=CALLER.application,
                address="127.0.0.1:54321",
                action="get",
                user="name-000000-00",
                outcome="ok",
            )
        assert context.audit.write()

    return record


def open_store(path: Path) -> Store:
    """Open a database as the writer does; make it, where there is none."""
    return Store(path, KEYRING.check_values, requests_kept_ms=1000)


def make_book(path: Path, users: int) -> None:
    """Make a database with the users of the load test in the application's book."""
    store = open_store(path)
    insert_users(store.connection, Vault(KEYRING), BOOK, users)
    store.checkpoint()
    store.close()


class Saves:
    """New versions of users, 64 at a time: the worker's part of them and the writer's."""

    def __init__(self, path: Path) -> None:
        self._store = open_store(path)
        self._context = context_of(path)
        self._client, self._connection = connect(self._context)

    def do(self, users: Iterable[int]) -> tuple[float, float]:
        """Save users again; return the worker's time and the writer's, in seconds.

        The writer's has the sync in it, and a checkpoint when it is due.
        """
        self._client.sendall(b"".join(map(book.save_of, users)))
        context, connection = self._context, self._connection
        began = time.perf_counter()
        _begin_turn(context)
        connection.receive()
        (batch,) = context.commit_queue.take()
        received = time.perf_counter()
        batch.results = self._store.commit(batch.rows, batch.operations)
        if self._store.log_pages > CHECKPOINT_PAGES:
            self._store.checkpoint()
        committed = time.perf_counter()
        batch.outcome = DONE
        context.commit_queue.answered()
        context.name_queues.settle(batch, 0.0)
        connection.settle()
        connection.flush()
        flushed = time.perf_counter()
        _receive_good(self._client)
        return received - began + flushed - committed, committed - received

    def close(self) -> None:
        """Close the database."""
        self._store.close()
