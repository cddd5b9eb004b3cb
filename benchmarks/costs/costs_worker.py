"""What a worker's part in a request costs, without the database and without other processes.

The requests are those of an application that may do everything, in a book of its own.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from benchmarks.costs.costing import Cost, per_call
from pwserver.config import Settings
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECK_LENGTH_MAX
from pwserver.secret import Secret
from pwserver.wire.framing import request_reader
from pwserver.wire.messages import RIGHTS
from workers.audit.record import AuditLog
from workers.auth.applications import ANYBODY, KNOWN, Caller, Registry
from workers.auth.throttle import GuessTable, Throttle
from workers.book.keyring import KEY_BYTES, Keyring, MasterKey
from workers.book.models import IdClock
from workers.book.vault import HALF_NONCE_BYTES, Vault, derive_key
from workers.checker import check
from workers.serving.checks import Checks
from workers.serving.commit_queue import DONE, CommitQueue
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.serving.name_queues import NameQueues
from workers.storage.reading import BookReader

PASSWORD = "abc123def456"
SAVE = b'{"message": "save_password", "password": "abc123def456"}\n'
PING = b'{"message": "ping"}\n'
COUNT = b'{"message": "number_of_users"}\n'

GOOD = (b'{"message": "', b'{"message":"return_', b'{"message":"Password saved!"')
"""What a reply begins with, where nothing is wrong."""

TYPICAL = "Tr0ub4dor&3"
LEET = "a4b8c(e3g6i1l|o0s5t7x%z2@{[<9!$+"
"""Every character that may stand for a letter, among those it may stand for: zxcvbn tries all
combinations. The slowest of a dozen texts that were tried."""

KEY = MasterKey(1, Secret(os.urandom(KEY_BYTES)))
KEYRING = Keyring({KEY.id: KEY}, Secret(os.urandom(KEY_BYTES)))

BOOK = 1
CALLER = Caller("benchmark", BOOK, list(RIGHTS), frozenset({ANYBODY, KNOWN, *RIGHTS}))


def sealing() -> Iterator[Cost]:
    """Measure the two constructions that are safe here, and the way back."""
    vault, place = Vault(KEYRING), bytes(41)
    yield (
        "seal a password (XAES-256-GCM, as it is done)",
        per_call(lambda: vault.seal(PASSWORD, place), 20_000),
    )
    siv = AESGCMSIV(AESGCMSIV.generate_key(256))
    yield (
        "seal a password (AES-256-GCM-SIV, random nonce)",
        per_call(lambda: siv.encrypt(os.urandom(12), PASSWORD.encode(), place), 20_000),
    )
    sealed = vault.seal(PASSWORD, place)
    yield (
        "open a password, subkey at hand",
        per_call(lambda: vault.open(sealed, KEY.id, place), 20_000),
    )
    prefix = sealed[:HALF_NONCE_BYTES]
    yield "derive a subkey", per_call(lambda: derive_key(KEY.secret, prefix), 5000)


def reading() -> Iterator[Cost]:
    """Measure bytes becoming messages."""
    reader = request_reader(65536)
    yield "read a message that comes alone", per_call(lambda: reader.feed(SAVE), 20_000)
    yield "read a message in a burst of 64", per_call(lambda: reader.feed(SAVE * 64), 1000, 64)


def answering() -> Iterator[Cost]:
    """Measure a worker's whole share of a request, from its socket to its socket."""
    for what, line in (
        ("receive and answer a ping", PING),
        ("receive and answer a count", COUNT),
        ("receive, check, seal and queue a save", SAVE),
    ):
        for depth in (1, 64):
            do = turn(context_of(Path("none.db")), itertools.repeat(line * depth))
            yield f"{what}, {depth} at a time", per_call(do, 20_000 // depth, depth)


def context_of(path: Path) -> Context:
    """Return what a worker's commands work with, on a database that may be there."""
    scoreboard = Scoreboard(2)
    scoreboard.opened()
    bell, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)  # nobody listens; full, it is passed over
    reader, commit_queue = BookReader(path, scoreboard), CommitQueue()
    record = path.with_suffix(".audit"), path.with_suffix(".audit-head")
    return Context(
        vault=Vault(KEYRING),
        key_path=path.with_suffix(".key"),
        ids=IdClock(1),
        commit_queue=commit_queue,
        name_queues=NameQueues(commit_queue, save_timeout_s=1.0),
        reader=reader,
        registry=Registry(reader, KEYRING.for_purpose("application")),
        audit=AuditLog(*record, KEYRING.for_purpose("audit")),
        throttle=Throttle(GuessTable(1), 1),
        checks=Checks(1.0),
        scoreboard=scoreboard,
        bell=bell,
        versions_kept=Settings().versions_kept,
    )


def connect(context: Context) -> tuple[socket.socket, Connection]:
    """Return both ends of a connection: the client's, and what the worker makes of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    served.setblocking(False)
    connection = Connection(served, context, Settings(), set())
    connection.peer.become(CALLER)
    return client, connection


def begin_turn(context: Context) -> None:
    """Let a worker's parts know what time it is."""
    now_ns = time.time_ns()
    context.now_ms = now_ns // 1_000_000
    context.ids.advance(now_ns)
    context.now = time.monotonic()


def turn(context: Context, bursts: Iterator[bytes]) -> Callable[[], None]:
    """Return what a worker does with a burst of requests on one connection.

    The writer's part is left out: what is queued for it counts as done at once.
    """
    client, connection = connect(context)

    def do() -> None:
        client.send(next(bursts))
        begin_turn(context)
        connection.receive()
        for batch in context.commit_queue.expire(math.inf):  # takes them off the queue
            for run in batch.runs:
                run.settle(DONE)
        assert context.audit.write()
        connection.flush()
        receive_good(client)

    return do


def receive_good(client: socket.socket) -> None:
    """Take replies; make sure that they are what they should be."""
    replies = client.recv(65536)
    assert replies.startswith(GOOD), replies[:200]


def checking() -> Iterator[Cost]:
    """Measure how long the checker is at it."""
    check(TYPICAL)  # loads the dictionaries
    yield "check how strong a typical password is", per_call(lambda: check(TYPICAL), 20)
    worst = (LEET * 2)[:CHECK_LENGTH_MAX]
    yield "check one that was made to take long", per_call(lambda: check(worst), 1)
