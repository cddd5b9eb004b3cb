"""Which host is tried next, and what a host that is silent or not the newest costs."""

import contextlib
import math
import socket
import time
from collections.abc import Iterator

import pytest

from pwserver.errors import Unavailable
from tests.support.books import KEYRING
from tests.support.postgres import Postgres
from tests.support.postgres_host import Host
from workers.storage.postgres.hosts import Hosts
from workers.storage.postgres.schema import prepare

pytestmark = pytest.mark.postgres


def hosts_of(hosts: Hosts, number: int, now: float = 0.0) -> list[str]:
    """Return the hosts that are tried next."""
    found = [hosts.next_one(now) for _ in range(number)]
    return [part for each in found for part in each.split() if part.startswith("host=")]


def test_each_host_is_tried_in_turn_with_its_own_port() -> None:
    """A single port is for all of them, and an empty one is libpq's own."""
    hosts = Hosts("postgresql://me@a,b:7,c/book?target_session_attrs=read-write")
    tried = [hosts.next_one(0.0) for _ in range(4)]
    assert [each.split("host=")[1].split()[0] for each in tried] == ["a", "b", "c", "a"]
    assert ["port=7" in each for each in tried] == [False, True, False, False]
    assert all("target_session_attrs=read-write" in each for each in tried)
    assert all("application_name=pwserver" in each for each in tried)
    one_port = Hosts("host=a,b port=7 dbname=book")
    assert all("port=7" in one_port.next_one(0.0) for _ in range(2))


def test_the_pause_comes_after_all_hosts() -> None:
    """Not between two of them."""
    hosts = Hosts("host=a,b")
    hosts.next_one(0.0)
    assert not hosts.round_is_over
    hosts.next_one(0.0)
    assert hosts.round_is_over
    hosts.next_one(0.0)
    assert not hosts.round_is_over
    assert Hosts("service=book").next_one(0.0) == "service=book application_name=pwserver"


def test_a_silent_host_is_left_out_for_a_while() -> None:
    """And is tried all the same if there is no other."""
    hosts = Hosts("host=a,b,c")
    assert hosts_of(hosts, 1) == ["host=a"]
    hosts.was_silent(0.0)
    assert hosts_of(hosts, 3) == ["host=b", "host=c", "host=b"]
    assert hosts_of(hosts, 2, now=60.0) == ["host=c", "host=a"]
    alone = Hosts("host=a")
    alone.next_one(0.0)
    alone.was_silent(0.0)
    assert hosts_of(alone, 1) == ["host=a"]


def test_how_long_a_host_may_be_silent_can_be_set() -> None:
    """As libpq has it."""
    assert Hosts("host=a").wait_s == 2
    assert Hosts("host=a connect_timeout=7").wait_s == 7


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port at which nobody answers, as at a machine that is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_silent_host_does_not_keep_another_from_being_found(
    postgres: Postgres, silent_port: int
) -> None:
    """After the time that it has to answer; libpq alone would stay with it."""
    book = postgres.new_database()
    prepare(book, KEYRING.check_values)
    name = book.rpartition("dbname=")[2]
    both = f"host=127.0.0.1,{postgres.folder} port={silent_port},5432 connect_timeout=1"
    began = time.monotonic()
    with contextlib.closing(Host(f"{both} user=tests dbname={name}")) as host:
        assert time.monotonic() - began >= 1
        assert host.ask(host.reader.sealing_key()) == 1


@pytest.fixture
def host(postgres: Postgres) -> Iterator[Host]:
    """Return a host of a new book, whose committer does nothing by itself any more."""
    book = postgres.new_database()
    prepare(book, KEYRING.check_values)
    with contextlib.closing(Host(book)) as opened:
        opened.tick_at = float("inf")
        opened.until(lambda: opened.committer.takes_work)
        yield opened


def test_only_the_server_that_commits_is_read_where_there_are_standbys(host: Host) -> None:
    """The answer of another one may be old: it is refused, and the connection is made again."""
    board = host.scoreboard
    assert not board.database_server, "this server waits for no standby"
    board.database_server, board.committed_ms = 7, int(time.monotonic() * 1000)
    with pytest.raises(Unavailable, match="may be cut off"):
        host.ask(host.reader.sealing_key())
    assert not host.reader.link.connected
    assert "another server" in host.reader.link.why
    board.database_server = 0
    host.until(lambda: host.reader.ready)


def test_a_server_that_commits_nothing_more_is_not_read(host: Host) -> None:
    """Within a second: it may be a primary that is cut off from its standbys."""
    board = host.scoreboard
    host.until(lambda: host.reader.ready and not board.commit_since_us)
    host.tick_at = math.inf
    board.database_server = host.reader._server
    board.committed_ms = int(time.monotonic() * 1000) - 1100
    with pytest.raises(Unavailable, match="may be cut off"):
        host.ask(host.reader.sealing_key())
    assert host.reader.link.connected
    board.database_server = host.reader._server
    board.committed_ms = int(time.monotonic() * 1000)
    assert host.ask(host.reader.sealing_key()) == 1
