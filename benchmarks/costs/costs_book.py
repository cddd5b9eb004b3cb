"""What the book costs: rows going into the database, versions replaced, names found, pages read."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import apsw
from peewee import chunked

from benchmarks.client import book
from benchmarks.costs.costing import REPETITIONS, Cost, per_call
from benchmarks.costs.costs_worker import (
    BOOK,
    KEY,
    KEYRING,
    begin_turn,
    connect,
    context_of,
    receive_good,
    turn,
)
from pwserver.limits import CHECKPOINT_PAGES
from workers.book import rows
from workers.book.models import COMMON_BOOK, Row, User, UserRow
from workers.book.vault import Vault
from workers.serving.commit_queue import DONE
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.storage.database import Store

COMMITS = 200
SEALED = b"x" * 52
BURST = 64
USERS_DRAWN = 20_000
TRANSACTION_USERS = 100_000


def inserting(folder: Path) -> Iterator[Cost]:
    """Measure rows going into a table: how they are put there, and what an index would cost."""
    store = open_store(folder / "rows.db")
    ids = itertools.count(1)

    def new(number: int, its_book: int = COMMON_BOOK) -> list[Row]:
        return [(next(ids), its_book, KEY.id, SEALED, 0) for _ in range(number)]

    def through_peewee() -> None:
        fields = [User.id, User.book, User.key_id, User.sealed, User.saved_at_ms]
        with User._meta.database.atomic():
            for chunk in chunked(new(BURST), BURST):
                User.insert_many(chunk, fields=fields).execute()

    yield (
        "insert and commit a row, 64 at a time",
        per_call(lambda: store.commit(new(BURST), []), COMMITS, BURST),
    )
    yield (
        "the same into an application's own book",
        per_call(lambda: store.commit(new(BURST, BOOK), []), COMMITS, BURST),
    )
    yield "the same through insert_many", per_call(through_peewee, COMMITS, BURST)
    for indexed in (False, True):
        yield (
            f"insert a row, 64 at a time, no sync, {'with' if indexed else 'no'} index on names",
            per_call(named_rows(store.connection, indexed), COMMITS, BURST),
        )
    store.close()


def named_rows(connection: apsw.Connection, indexed: bool) -> Callable[[], None]:
    """Return what inserts 64 rows with names, which it has ready, and commits without a sync."""
    table = "indexed" if indexed else "plain"
    unique = "UNIQUE" if indexed else ""
    connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, x, y, name {unique})")
    connection.pragma("synchronous", "off")
    ids = itertools.count(1 << 40)
    batches = iter(
        [
            [(n := next(ids), SEALED, 0, f"user-{n:013}") for _ in range(BURST)]
            for _ in range(COMMITS * REPETITIONS)
        ]
    )

    def insert() -> None:
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", next(batches))
        connection.execute("COMMIT")

    return insert


def with_users(folder: Path, users: int) -> Iterator[Cost]:
    """Measure what depends on how many users there are: each user is drawn from all of them."""
    path = folder / f"{users}.db"
    store = open_store(path)
    fill(store, users)
    context = context_of(path)
    numbers = itertools.cycle(random.sample(range(users), min(users, USERS_DRAWN)))
    within = f"among {users:,} users"
    worker_us, writer_us = named_saves(store, context, numbers)
    yield f"plan a new version, 64 at a time, {within}", worker_us
    yield f"commit a new version, 64 at a time, {within}", writer_us
    yield (
        f"find a name {within}",
        per_call(lambda: context.reader.find(BOOK, book.name_of(next(numbers))), 5000),
    )
    for what, request in (
        ("receive and answer get_password", book.get_request),
        ("receive and answer verify_password", book.verify_request),
        ("receive and answer list_users (100)", page_request),
    ):
        lines = map(request, numbers)
        yield f"{what}, {within}", per_call(turn(context, lines), 2000)
    store.close()


def open_store(path: Path) -> Store:
    """Make a database as the writer does."""
    return Store(path, KEYRING.check_values, requests_kept_ms=1000)


def named_saves(store: Store, context: Context, numbers: Iterator[int]) -> tuple[float, float]:
    """Measure new versions of users: the worker's part and the writer's, in microseconds each."""
    client, connection = connect(context)
    totals = []
    for _ in range(REPETITIONS):
        parts = []
        for _ in range(COMMITS):
            users = itertools.islice(numbers, BURST)
            saves = [book.save_request(book.password_of(n), book.name_of(n)) for n in users]
            client.sendall(b"".join(saves))
            parts.append(save_burst(store, context, connection))
            receive_good(client)
        totals.append([sum(part) / COMMITS / BURST * 1e6 for part in zip(*parts, strict=True)])
    worker_us, writer_us = map(median, zip(*totals, strict=True))
    return worker_us, writer_us


def save_burst(store: Store, context: Context, connection: Connection) -> tuple[float, float]:
    """Do the named saves that have arrived; return the worker's and the writer's time in seconds.

    The writer's has the sync in it, and a checkpoint when it is due.
    """
    began = time.perf_counter()
    begin_turn(context)
    connection.receive()
    (batch,) = context.commit_queue.expire(math.inf)  # takes it off the queue
    received = time.perf_counter()
    batch.results = store.commit(batch.rows, batch.operations)
    if store.log_pages > CHECKPOINT_PAGES:
        store.checkpoint()
    committed = time.perf_counter()
    batch.outcome = DONE
    context.name_queues.settle(batch, 0.0)
    connection.settle()
    connection.flush()
    return received - began + time.perf_counter() - committed, committed - received


def page_request(user: int) -> bytes:
    """Ask for the first 100 of the 500 users whose names begin like this one's."""
    return book.request("list_users", prefix=book.name_of(user)[:-4])


def fill(store: Store, users: int) -> None:
    """Put the users of the load test into a book, without a sync: as rows, not as saves."""
    vault, connection = Vault(KEYRING), store.connection
    columns = ", ".join(UserRow._fields)
    insert = f'INSERT INTO "user" ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)'
    connection.pragma("synchronous", "off")
    for first in range(0, users, TRANSACTION_USERS):
        connection.execute("BEGIN")
        for place in range(first, min(users, first + TRANSACTION_USERS)):
            number = book.scattered(place, users)
            name = book.name_of(number)
            user = UserRow(place + 1, 1, KEY.id, b"", 0, BOOK, None, name, None)
            connection.execute(insert, rows.seal(vault, book.password_of(number), user))
        connection.execute("COMMIT")
        store.checkpoint()
    connection.pragma("synchronous", "full")
