"""The servers that pwserver is compared with start, count what is saved, and leave nothing behind.

They are talked to by the load generator itself, as in a comparison.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.client.clients import Clients
from benchmarks.client.wire import BenchmarkFailed, Point, number_of_users
from benchmarks.servers import contenders, servers
from benchmarks.servers.servers import Started
from tests.support.harness import PATIENCE_S

USERS = 1000
SECONDS = 0.2


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    """Client processes, started once."""
    with Clients(1) as started:
        yield started


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of a run. Not pytest's, whose parents keep out the user PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(prefix="pwserver-test-") as name:
        home = Path(name) / "home"
        home.mkdir()
        yield home


def start(name: str, home: Path) -> Started:
    """Start a contender with users; skip the test where it cannot run here."""
    if name == "baseline":
        return servers.Baseline(home, 3, USERS)
    if reason := contenders.missing().get(name):
        pytest.skip(reason)
    return contenders.STARTERS[name](home, USERS)


def children() -> set[psutil.Process]:
    """Return all that descend from this process."""
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("name", ["baseline", *contenders.STARTERS])
def test_a_contender_is_filled_takes_saves_and_is_gone(
    name: str, home: Path, clients: Clients
) -> None:
    """It begins with its users, counts each save that it acknowledged, and ends all processes."""
    before = children()
    with start(name, home) as contender:
        way = contender.ways().basic
        assert number_of_users(way) == USERS
        earlier = contender.usage()
        users, later = USERS, earlier
        until = time.monotonic() + PATIENCE_S
        while later.cpu_s <= earlier.cpu_s and time.monotonic() < until:  # counted in hundredths
            outcome = clients.measure(way, Point("save", 2, 1), 0, (0.0, SECONDS))
            assert outcome.users > 0
            users += outcome.users
            assert number_of_users(way) == users
            later = contender.usage()
        assert later.cpu_s > earlier.cpu_s
        assert later.memory_bytes > 1 << 20
        its_own = children() - before
        assert its_own
    assert not [process for process in its_own if process.is_running()]


def test_a_contender_is_asked_only_what_it_can_answer(home: Path) -> None:
    """One that knows no pipelining is not measured with several requests in flight."""
    with start("fastapi", home) as contender:
        assert contender.takes(Point("save", 64, 1))
        assert not contender.takes(Point("save", 8, 64))


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    """The reason is what it printed, not that a time ran out; and what was started is gone."""
    before = children()
    with pytest.raises(BenchmarkFailed, match=r"never ended before it listened\n.* nope"):
        Started("never", ["sh", "-c", "echo nope >&2; exit 3"], home)
    assert children() == before
