"""The sections with pwserver alone: as the book grows, beside idle connections, without a pause,
the start, and the limit that SQLite and the disk set. Their figures are compared with aims.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client import idle as silent
from benchmarks.client.book import USERS_MAX
from benchmarks.client.client_process import allow_many_files
from benchmarks.client.dialects import SAVED_REPLY, save_line
from benchmarks.client.wire import (
    BASIC_LOADS,
    LOADS,
    Access,
    BenchmarkFailed,
    Control,
    Point,
    Ways,
    number_of_users,
    points,
)
from benchmarks.comparison.bench import DEEP, USUAL, Bench
from benchmarks.comparison.kept import REFERENCE
from benchmarks.fill import fill
from benchmarks.limit import Limit
from benchmarks.results.campaign import results_of
from benchmarks.results.progress import messages, progress
from benchmarks.results.subjects import Subject
from benchmarks.servers.service import Service, ServiceOverTls

APPLICATION = "benchmark"
WITH_IDLE = f"{REFERENCE}, idle connections"
PER_IDLE = "memory of an idle connection"
LISTENING = "from exec to listening"
FIRST_REPLY = "from exec to the first reply to a save"
IDLE_MEMORY = "memory with 2 workers"

OVER_TLS = f"{REFERENCE}, over TLS"
BOOK_USERS = 1_000
BOOK_LOADS = ("save", "count", "named", "get", "verify")

SPARE_FILES = 2000
"""Files that a service opens beside its idle connections: those of the load, and its own."""


# --- As the book grows. ---


class Filled(Service):
    """A service on a folder with users in it, and with the token of their application.

    The users have names, so that passwords can be read. They were put there before the service
    started (`fill.py`).
    """

    def __init__(self, home: Path, token: str) -> None:
        super().__init__(REFERENCE, home)
        self._token = token

    def ways(self) -> Ways:
        """Return how a guest gets in, and how the application does whose users they are."""
        return Ways(Access(self.address), Access(self.address, self._token))


def growth(bench: Bench) -> None:
    """Measure loads on books of several sizes, and what each takes of memory and disk."""
    assert max(bench.pace.growth) <= USERS_MAX
    with ExitStack() as stack:
        wanted = []
        for users in bench.pace.growth:
            subject = _filled(bench, stack, users)
            loads = ["save", "count", "get"] if users else ["save", "count"]
            wanted.append((subject, points(loads, [USUAL])))
        bench.contest("growth", wanted)


def _filled(bench: Bench, stack: ExitStack, users: int) -> Subject:
    """Start a service that has so many users before anybody asks it anything."""
    home = bench.home()
    with Service(REFERENCE, home) as empty:
        token = empty.register(APPLICATION).token
    if users:
        messages.print(f"  making {users:,} users")
        fill(empty.database, empty.database.with_suffix(".key"), APPLICATION, users)
    service = stack.enter_context(Filled(home, token))
    ways = service.ways()
    known = LOADS if users else BASIC_LOADS
    subject = Subject(service, ways, users, known, number_of_users(ways.basic))
    file_bytes, memory_bytes = service.database.stat().st_size, service.usage().memory_bytes
    bench.keep("growth", f"database with {users:,} users", "bytes", [file_bytes])
    bench.keep("growth", f"memory at the start with {users:,} users", "bytes", [memory_bytes])
    return subject


# --- What is more than the basic contract. ---


def book(bench: Bench) -> None:
    """Measure named saves, reads and TLS beside plain saves and counts, in one run."""
    with ExitStack() as stack:
        plain = Service(REFERENCE, bench.home())
        subject = bench.subject(stack, plain, BOOK_USERS, BOOK_LOADS)
        over_tls = bench.subject(stack, ServiceOverTls(OVER_TLS, bench.home()))
        wanted = [(subject, points(BOOK_LOADS, [USUAL])), (over_tls, points(["save"], [USUAL]))]
        bench.contest("book", wanted)


# --- Nothing but time and memory. ---


def idle(bench: Bench) -> None:
    """Measure a service with idle connections beside one without."""
    number = bench.pace.idle_connections
    allow_many_files(number + SPARE_FILES)
    with ExitStack() as stack:
        alone = bench.subject(stack, Service(REFERENCE, bench.home()))
        beside = bench.subject(stack, Service(WITH_IDLE, bench.home()))
        before = beside.target.usage().memory_bytes
        stack.enter_context(silent.idle(beside.ways.basic, number))
        after = beside.target.usage().memory_bytes
        bench.keep("idle", PER_IDLE, "bytes", [(after - before) / number])
        wanted = points(["save", "count"], [USUAL])
        bench.contest("idle", [(alone, wanted), (beside, wanted)])


def steady(bench: Bench) -> None:
    """Measure saves for a minute without a pause."""
    with ExitStack() as stack:
        subject = bench.subject(stack, Service(REFERENCE, bench.home()))
        bench.contest("steady", [(subject, [Point("save", *USUAL)])], bench.pace.steady_s)


def start(bench: Bench) -> None:
    """Measure how soon a service is there, and what it has of memory before anybody asks more.

    The first start makes the database and the key, the others find them.
    """
    home = bench.home()
    listening, first_reply, memory = [], [], []
    for _ in range(bench.pace.starts):
        with Service(REFERENCE, home, ["--workers", "2"]) as service:
            with Control(Access(service.address)) as control:
                reply = control.ask(save_line("the first password"))
            now_s = time.monotonic()
            if reply != SAVED_REPLY:
                raise BenchmarkFailed(f"{REFERENCE} answered the first save with {reply!r}")
            listening.append(service.listening_s - service.exec_s)
            first_reply.append(now_s - service.exec_s)
            service.settle()
            memory.append(float(service.usage().memory_bytes))
    bench.keep("start", LISTENING, "s", listening)
    bench.keep("start", FIRST_REPLY, "s", first_reply)
    bench.keep("start", IDLE_MEMORY, "bytes", memory)


# --- The limit. ---


def limit(bench: Bench) -> None:
    """Measure what SQLite and the disk allow, and pwserver, in turn."""
    pace = bench.pace
    with ExitStack() as stack:
        subject = bench.subject(stack, Service(REFERENCE, bench.home()))
        bare = stack.enter_context(Limit(bench.home()))
        results = results_of([(subject, points(["save"], [USUAL, DEEP]))])
        now_at = stack.enter_context(progress(len(results) * pace.rounds))
        for _ in range(pace.rounds):
            bare.measure(pace.seconds / 2)
            bench.measure(results, 1, pace.seconds, now_at)
        bench.keep_loads("limit", results, pace.seconds)
    for name, rates in bare.rates.items():
        bench.keep("limit", name, name.split()[0].strip(",") + "/s", rates)
