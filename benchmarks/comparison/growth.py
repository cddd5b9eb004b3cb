"""The section on growth: pwserver with no users, and with so many that nothing fits a cache.

The users have names and are in the book of an application, so that passwords can be read; they were
put there before the service started (`fill.py`).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.client.book import USERS_MAX
from benchmarks.client.wire import LOADS, SEED_LOADS, Access, Ways, number_of_users
from benchmarks.comparison.bench import USUAL, Bench, points
from benchmarks.comparison.kept import REFERENCE
from benchmarks.fill import fill
from benchmarks.results.progress import messages
from benchmarks.results.subjects import Subject
from benchmarks.servers.service import Service

SECTION = "growth"
APPLICATION = "benchmark"


class Filled(Service):
    """A service on a folder with users in it, of which `Filled.token` is known."""

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
        bench.contest(SECTION, wanted)


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
    known = LOADS if users else SEED_LOADS
    subject = Subject(service, ways, users, known, number_of_users(ways.seed))
    bench.keep(SECTION, file_bytes(users), "bytes", [service.database.stat().st_size])
    bench.keep(SECTION, memory_bytes(users), "bytes", [service.usage().memory_bytes])
    return subject


def file_bytes(users: int) -> str:
    """Return what the size of the database is called in what is kept."""
    return f"database with {users:,} users"


def memory_bytes(users: int) -> str:
    """Return what the memory is called that a service takes that has just started."""
    return f"memory at the start with {users:,} users"
