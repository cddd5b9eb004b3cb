"""What the parts cost: the figures behind the decisions in ARCHITECTURE.md, measured anew.

    python benchmarks/costs.py

Each figure is the median of several repetitions in one process, in microseconds of wall time; the
disk is that of the temporary directory, or of `--directory`. They are for comparing lines with each
other: on a shared machine absolute times wander.
"""

import argparse
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from peewee import chunked
from rich.console import Console
from rich.table import Table

from pwserver.config import Settings
from pwserver.framing import request_reader
from pwserver.handoff import Scoreboard
from workers.batches import SAVED, Batches
from workers.commands import Context
from workers.connection import Connection
from workers.database import Store
from workers.models import IdClock, User
from workers.vault import MasterKey, Vault

REPETITIONS = 7
LINE = b'{"message": "save_password", "password": "abc123def456"}\n'
PASSWORD = "abc123def456"
PAGE = b"x" * 4096


def per_call(call: Callable[[], object], calls: int, units: int = 1) -> float:
    """Return what one of `units` in a call takes, in microseconds."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls / units)
    return statistics.median(times) * 1e6


def sealing() -> Iterator[tuple[str, float]]:
    """Measure the two constructions that are safe here."""
    vault = Vault(MasterKey(1, os.urandom(32)))
    yield (
        "seal a password (XAES-256-GCM, as it is done)",
        per_call(lambda: vault.seal(PASSWORD, 1 << 60), 20_000),
    )
    siv = AESGCMSIV(AESGCMSIV.generate_key(256))
    yield (
        "seal a password (AES-256-GCM-SIV, random nonce)",
        per_call(lambda: siv.encrypt(os.urandom(12), PASSWORD.encode(), b"x" * 12), 20_000),
    )


def reading() -> Iterator[tuple[str, float]]:
    """Measure bytes becoming messages, and a worker's whole share of a save."""
    reader = request_reader(65536)
    yield "read a message that comes alone", per_call(lambda: reader.feed(LINE), 20_000)
    yield "read a message in a burst of 64", per_call(lambda: reader.feed(LINE * 64), 1_000, 64)
    for depth in (1, 64):
        yield (
            f"receive, check, seal and queue a save, {depth} at a time",
            per_call(worker_turn(depth), 20_000 // depth, depth),
        )


def worker_turn(depth: int) -> Callable[[], None]:
    """Return what a worker does with so many saves of one connection, but for the writer's part."""
    scoreboard = Scoreboard(multiprocessing.get_context("forkserver"), 2)
    bell, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    vault = Vault(MasterKey(1, os.urandom(32)))
    context = Context(vault, IdClock(1), Batches(), scoreboard, bell)
    client, served = socket.socketpair()
    served.setblocking(False)
    connection = Connection(served, context, Settings())

    def turn() -> None:
        client.send(LINE * depth)
        context.ids.advance(time.time_ns())
        connection.receive()
        context.batches.expire(1.0)  # takes them off the queue
        for run in connection.runs:
            run.batch.outcome = SAVED
        connection.settle()
        connection.flush()
        client.recv(65536)

    return turn


def inserting(folder: Path) -> Iterator[tuple[str, float]]:
    """Measure rows going into a table: how they are put there, and what an index would cost."""
    store = Store(folder / "rows.db", 1, b"x" * 16)
    ids = iter(range(1, 1 << 40))

    def rows(number: int) -> list[tuple[int, int, bytes, int]]:
        return [(next(ids), 1, b"x" * 52, 0) for _ in range(number)]

    def through_peewee() -> None:
        fields = [User.id, User.key_id, User.sealed, User.saved_at_ms]
        with User._meta.database.atomic():
            for chunk in chunked(rows(64), 64):
                User.insert_many(chunk, fields=fields).execute()

    yield (
        "insert and commit a row, 64 at a time",
        per_call(lambda: store.insert_users(rows(64)), 200, 64),
    )
    yield "the same through insert_many", per_call(through_peewee, 200, 64)
    for name, indexed in (("without", False), ("with", True)):
        yield (
            f"insert a row, 64 at a time, no sync, {name} an index on names",
            per_call(named_rows(store.connection, indexed), 200, 64),
        )
    store.close()


def named_rows(connection: apsw.Connection, indexed: bool) -> Callable[[], None]:
    """Return what inserts 64 rows with names, which it has ready, and commits without a sync."""
    table = "indexed" if indexed else "plain"
    unique = "UNIQUE" if indexed else ""
    connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, x, y, name {unique})")
    connection.pragma("synchronous", "off")
    ids = iter(range(1 << 40, 1 << 41))
    batches = iter(
        [
            [(n := next(ids), b"x" * 52, 0, f"user-{n:013}") for _ in range(64)]
            for _ in range(200 * REPETITIONS)
        ]
    )

    def insert() -> None:
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", next(batches))
        connection.execute("COMMIT")

    return insert


def syncing(folder: Path) -> Iterator[tuple[str, float]]:
    """Measure the disk: a sync of a file that grows, and of one that is overwritten."""
    for name, size in (("that grows", 0), ("overwritten in place", 8 * 1024 * 1024)):
        file = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.write(file, b"\1" * size)
        os.fsync(file)
        os.lseek(file, 0, os.SEEK_SET)

        def write(file: int = file) -> None:
            os.write(file, PAGE)
            os.fdatasync(file)

        yield f"write and sync a page of a file {name}", per_call(write, 200)
        os.close(file)


def starting(folder: Path) -> Iterator[tuple[str, float]]:
    """Measure the service's start, and its memory when it has nothing to do (in KiB)."""
    command = [sys.executable, "-m", "pwserver", "serve", "--port", "0"]
    listening, answered, memory = [], [], []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as service:
            assert service.stdout is not None
            found = re.search(rb"on (\S+):(\d+),", service.stdout.readline())
            assert found, "the service did not start"
            listening.append(time.perf_counter() - began)
            with socket.create_connection((found[1].decode(), int(found[2]))) as client:
                client.sendall(b'{"message": "ping"}\n')
                client.recv(100)
            answered.append(time.perf_counter() - began)
            memory.append(sum(map(proportional_kib, family(service.pid))))
            service.terminate()
    yield "start the service until it listens", statistics.median(listening) * 1e6
    yield "start the service until its first reply", statistics.median(answered) * 1e6
    yield "memory of all its processes (PSS), in KiB", statistics.median(memory)


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def proportional_kib(pid: int) -> int:
    """Return a process's share of memory, what is shared divided by who shares it."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    return int(found[1]) if found else 0


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--directory", help="where files are written; it decides which disk")
    options = parser.parse_args()
    table = Table("what", "microseconds")
    table.columns[1].justify = "right"
    with tempfile.TemporaryDirectory(prefix="pwserver-costs-", dir=options.directory) as name:
        folder = Path(name)
        parts: list[Iterator[tuple[str, Any]]] = [
            sealing(), reading(), inserting(folder), syncing(folder), starting(folder)
        ]  # fmt: skip
        for part in parts:
            for what, figure in part:
                table.add_row(what, f"{figure:,.2f}" if figure < 100 else f"{figure:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
