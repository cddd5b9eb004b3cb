"""What the parts cost: the figures behind the decisions in docs/decisions, measured again.

    python benchmarks/costs/costs.py

pyperf measures each part in several processes, and prints its mean and standard deviation; `--help`
lists its options, such as `--fast`, and `-o FILE` to keep all values and to compare runs with
`python -m pyperf compare_to`. The disk is that of the temporary directory, or of `--directory`. The
figures are for comparing lines with each other: on a shared machine absolute times wander.

`limit.py` measures what a sync of the disk takes, `handshakes.py` and `load.py --against tls` what
TLS costs, and `compare.py --sections start` how soon the service is there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started by its path

import pyperf
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from benchmarks.client import book
from benchmarks.costs.parts import (
    BOOK,
    BURST,
    KEY,
    KEYRING,
    Saves,
    context_of,
    make_book,
    open_store,
    recording,
    turn,
)
from benchmarks.results.options import add_directory
from pwserver.limits import CHECK_LENGTH_MAX
from pwserver.wire.framing import request_reader
from workers.auth.applications import new_token, token_hash
from workers.book.models import COMMON_BOOK, Row
from workers.book.vault import HALF_NONCE_BYTES, Vault, derive_key
from workers.checker import check

Call = Callable[[], object]
Prepare = Callable[[Path, int], Call]
"""Gets ready, in an empty folder, what is then called so many times, and timed."""

BOOKS = (1000, 1_000_000)
USERS_DRAWN = 20_000

PASSWORD = "abc123def456"
SAVE = b'{"message": "save_password", "password": "abc123def456"}\n'
PING = b'{"message": "ping"}\n'
COUNT = b'{"message": "number_of_users"}\n'

TYPICAL = "Tr0ub4dor&3"
LEET = "a4b8c(e3g6i1l|o0s5t7x%z2@{[<9!$+"
"""Every character that may stand for a letter, among those it may stand for: zxcvbn tries all
combinations. The slowest of a dozen texts that were tried."""

PLACE = bytes(41)
SEALED = b"x" * 52


def one(call: Call) -> Prepare:
    """Return what has nothing to get ready."""
    return lambda folder, times: call


def sealing() -> Iterator[tuple[str, Call]]:
    """Yield the two constructions that are safe here, and the way back."""
    vault = Vault(KEYRING)
    siv = AESGCMSIV(AESGCMSIV.generate_key(256))
    sealed = vault.seal(PASSWORD, PLACE)
    prefix = sealed[:HALF_NONCE_BYTES]
    yield "seal a password (XAES-256-GCM, as it is done)", lambda: vault.seal(PASSWORD, PLACE)
    yield (
        "seal a password (AES-256-GCM-SIV, random nonce)",
        lambda: siv.encrypt(os.urandom(12), PASSWORD.encode(), PLACE),
    )
    yield "open a password, subkey at hand", lambda: vault.open(sealed, KEY.id, PLACE)
    yield "derive a subkey", lambda: derive_key(KEY.secret, prefix)


def answer(line: bytes, depth: int) -> Prepare:
    """Prepare a worker's whole share of requests, from its socket to its socket."""
    return lambda folder, times: turn(context_of(folder / "none.db"), [line * depth] * times)


def record(number: int) -> Prepare:
    """Prepare what records so many readings of one turn."""
    return lambda folder, times: recording(context_of(folder / "none.db"), number)


def insert(its_book: int) -> Prepare:
    """Prepare what inserts 64 rows and commits them, as the writer does."""

    def prepare(folder: Path, times: int) -> Call:
        store = open_store(folder / "rows.db")
        ids = itertools.count(1)

        def new() -> list[Row]:
            return [(next(ids), its_book, KEY.id, SEALED, 0) for _ in range(BURST)]

        return lambda: store.commit(new(), [])

    return prepare


def insert_named(unique: str) -> Prepare:
    """Prepare rows with names, and what inserts 64 of them and commits without a sync."""

    def prepare(folder: Path, times: int) -> Call:
        connection = open_store(folder / "rows.db").connection
        connection.execute(f"CREATE TABLE named (id INTEGER PRIMARY KEY, x, y, name {unique})")
        connection.pragma("synchronous", "off")
        ids = itertools.count(1 << 40)
        batches = iter(
            [
                [(n := next(ids), SEALED, 0, f"user-{n:013}") for _ in range(BURST)]
                for _ in range(times)
            ]
        )

        def call() -> None:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO named VALUES (?, ?, ?, ?)", next(batches))
            connection.execute("COMMIT")

        return call

    return prepare


def drawn(users: int) -> Iterator[int]:
    """Draw users from all of them."""
    return itertools.cycle(random.sample(range(users), min(users, USERS_DRAWN)))


def read_book(path: Path, users: int, request: Callable[[int], bytes]) -> Prepare:
    """Prepare what receives and answers requests for users of a book."""
    return lambda folder, times: turn(context_of(path), map(request, drawn(users)))


def page_request(user: int) -> bytes:
    """Ask for the first 100 of the 500 users whose names begin like this one's."""
    return book.request("list_users", prefix=book.name_of(user)[:-4])


def timed(times: int, prepare: Prepare, folder: Path) -> float:
    """Return how long so many calls take of what is prepared, in seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        call = prepare(Path(name), times)
        began = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - began


def timed_saves(times: int, path: Path, users: int, part: int) -> float:
    """Return how long a part of new versions of users takes, in seconds."""
    saves, numbers = Saves(path), drawn(users)
    total = sum(saves.do(itertools.islice(numbers, BURST))[part] for _ in range(times))
    saves.close()
    return total


def measure(runner: pyperf.Runner, folder: Path) -> None:
    """Hand all parts to pyperf, which measures each in processes of their own."""

    def cost(name: str, prepare: Prepare, units: int = 1) -> None:
        """Measure what is called once it is prepared; it does so many units of what it costs."""
        runner.bench_time_func(name, timed, prepare, folder, inner_loops=units)

    for name, call in sealing():
        cost(name, one(call))
    cost("check how strong a typical password is", one(lambda: check(TYPICAL)))
    slowest = (LEET * 2)[:CHECK_LENGTH_MAX]
    cost("check one that was made to take long", one(lambda: check(slowest)))
    reader = request_reader(65536)
    cost("read a message that comes alone", one(lambda: reader.feed(SAVE)))
    cost("read a message in a burst of 64", one(lambda: reader.feed(SAVE * BURST)), BURST)
    token = new_token().reveal()
    cost("hash a token", one(lambda: token_hash(token)))
    for depth in (1, BURST):
        together = f"{depth} at a time"
        cost(f"receive and answer a ping, {together}", answer(PING, depth), depth)
        cost(f"receive and answer a count, {together}", answer(COUNT, depth), depth)
        cost(f"receive, check, seal and queue a save, {together}", answer(SAVE, depth), depth)
        cost(f"record a reading, {together}", record(depth), depth)
    cost("insert and commit a row, 64 at a time", insert(COMMON_BOOK), BURST)
    cost("the same into an application's own book", insert(BOOK), BURST)
    cost("insert a row, 64 at a time, no sync, no index on names", insert_named(""), BURST)
    cost("insert a row, 64 at a time, no sync, with index on names", insert_named("UNIQUE"), BURST)
    for users in BOOKS:
        path = book_in(folder, users)
        among = f"among {users:,} users"
        for part, what in enumerate(("plan", "commit")):
            name = f"{what} a new version, 64 at a time, {among}"
            runner.bench_time_func(name, timed_saves, path, users, part, inner_loops=BURST)
        for what, request in (
            ("get_password", book.get_request),
            ("verify_password", book.verify_request),
            ("list_users (100)", page_request),
        ):
            cost(f"receive and answer {what}, {among}", read_book(path, users, request))


def book_in(folder: Path, users: int) -> Path:
    """Return the file of the book with so many users."""
    return folder / f"{users}.db"


def main() -> None:
    """Make the books, in the first process alone, and have everything measured."""

    def hand_on(command: list[str], options: argparse.Namespace) -> None:
        command += ["--directory", str(options.directory)]

    runner = pyperf.Runner(processes=3, program_args=[__file__], add_cmdline_args=hand_on)
    runner.argparser.description = __doc__
    runner.argparser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_directory(runner.argparser)
    options = runner.parse_args()
    if options.worker:
        measure(runner, options.directory)
        return
    with tempfile.TemporaryDirectory(prefix="pwserver-costs-", dir=options.directory) as name:
        options.directory = folder = Path(name)
        for users in BOOKS:
            make_book(book_in(folder, users), users)
        measure(runner, folder)


if __name__ == "__main__":
    main()
