"""What a worker's part in a request costs, without the database and without other processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from costing import Cost, per_call
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from pwserver.config import CHECK_LENGTH_MAX, Settings
from pwserver.framing import request_reader
from pwserver.handoff import Scoreboard
from workers.batches import DONE, Batches
from workers.checker import check
from workers.checks import Checks
from workers.connection import Connection
from workers.context import Context
from workers.lines import Lines
from workers.models import IdClock
from workers.reading import BookReader
from workers.vault import HALF_NONCE_BYTES, MasterKey, Vault, derive_key

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

SECRET = os.urandom(32)


def sealing() -> Iterator[Cost]:
    """Measure the two constructions that are safe here, and the way back."""
    vault = Vault(MasterKey(1, SECRET))
    yield (
        "seal a password (XAES-256-GCM, as it is done)",
        per_call(lambda: vault.seal(PASSWORD, 1 << 60), 20_000),
    )
    siv = AESGCMSIV(AESGCMSIV.generate_key(256))
    yield (
        "seal a password (AES-256-GCM-SIV, random nonce)",
        per_call(lambda: siv.encrypt(os.urandom(12), PASSWORD.encode(), b"x" * 12), 20_000),
    )
    sealed = vault.seal(PASSWORD, 1 << 60)
    yield "open a password, subkey at hand", per_call(lambda: vault.open(sealed, 1 << 60), 20_000)
    prefix = sealed[:HALF_NONCE_BYTES]
    yield "derive a subkey", per_call(lambda: derive_key(SECRET, prefix), 5000)


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
    scoreboard = Scoreboard(multiprocessing.get_context("forkserver"), 2)
    scoreboard.opened()
    bell, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)  # nobody listens; full, it is passed over
    batches = Batches()
    return Context(
        vault=Vault(MasterKey(1, SECRET)),
        ids=IdClock(1),
        batches=batches,
        lines=Lines(batches, save_timeout_s=1.0),
        reader=BookReader(path, scoreboard),
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
    return client, Connection(served, context, Settings())


def turn(context: Context, bursts: Iterator[bytes]) -> Callable[[], None]:
    """Return what a worker does with a burst of requests on one connection.

    The writer's part is left out: what is queued for it counts as done at once.
    """
    client, connection = connect(context)

    def do() -> None:
        client.send(next(bursts))
        context.ids.advance(time.time_ns())
        connection.receive()
        for batch in context.batches.expire(1.0):  # takes them off the queue
            batch.outcome = DONE
        connection.settle()
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
