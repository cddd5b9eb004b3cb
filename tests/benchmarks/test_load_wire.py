"""The load generator speaks the protocols of those that are compared, and lets no wrong reply pass.

Contenders are started where they are installed; what a real server would hardly do is done by a
small server of this file.
"""

from __future__ import annotations

import argparse
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.client.clients import Clients
from benchmarks.client.dialects import DIALECTS, HTTP_SAVED, Dialect, http_body
from benchmarks.client.idle import idle
from benchmarks.client.links import HttpLink
from benchmarks.client.replies import Counts, Lengths
from benchmarks.client.wire import Access, Address, BenchmarkFailed, Control, Point, number_of_users
from benchmarks.results.options import sizes
from benchmarks.servers.servers import start_null
from tests.benchmarks.test_contenders import clients, home, start
from tests.support.harness import eventually

__all__ = ["clients", "home"]

SECONDS = (0.0, 0.2)
TIMEOUT_S = 10.0
SAVED = http_body(HTTP_SAVED)
HTTP_REPLY = b"HTTP/1.1 200 OK\r\ndate: now\r\nContent-Length: %d\r\n\r\n%b" % (len(SAVED), SAVED)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """Accept connections in a thread, one after another, and answer each; close it after that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_every_way_of_asking_counts_what_it_was_acknowledged(
    name: str, home: Path, clients: Clients
) -> None:
    """One request in flight, several, and a connection for each: no save is told but not kept."""
    with start(name, home) as contender:
        way = contender.ways().basic
        for point in (
            Point("mixed", 2, 1),
            Point("mixed", 2, 8),
            Point("mixed", 2, 1, once=True),
        ):

            def all_are_counted(point: Point = point) -> bool:
                before = number_of_users(way)
                outcome = clients.measure(way, point, 0, SECONDS)
                assert number_of_users(way) == before + outcome.users
                return outcome.replies > outcome.users // 2 > 0

            eventually(all_are_counted, "some are answered in time")


def test_postgres_says_what_is_wrong(home: Path) -> None:
    """An error is handed on as the reply, on one line, so it is found where replies are checked."""
    with start("postgres", home) as contender, Control(contender.ways().basic) as control:
        assert b'prepared statement "nonsense" does not exist' in control.ask(b"nonsense\n")


def test_a_postgres_that_goes_away_is_a_failure_in_words(home: Path) -> None:
    """What libpq raises when its connection is gone is not left to end the client process."""
    with start("postgres", home) as contender:
        import psycopg  # noqa: PLC0415 - installed, or the test was skipped

        way = contender.ways().basic
        end_all_others = (
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        where = f"host={way.address.host} port={way.address.port} user=postgres dbname=postgres"
        with Control(way) as control:
            with psycopg.connect(where) as administrator:
                administrator.execute(end_all_others)
            with pytest.raises(BenchmarkFailed, match="PostgreSQL is gone"):
                # What is asked first may still be answered, with the reason.
                [control.ask(DIALECTS["postgres"].count_request) for _ in range(2)]


def test_a_connection_for_each_request_is_never_asked_twice(clients: Clients) -> None:
    """Each is closed behind its reply, and there are as many replies as there were connections."""
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        requests.append(connection.recv(1000))
        connection.sendall(b":%d\r\n" % len(requests))
        assert connection.recv(1000) == b""

    with answering(answer) as address:
        way = Access(address, dialect="redis")

        def each_is_answered() -> bool:
            requests.clear()
            outcome = clients.measure(way, Point("count", 2, 1, once=True), 0, SECONDS)
            assert requests == [DIALECTS["redis"].count_request] * len(requests)
            assert outcome.replies <= len(requests) == sum(outcome.latencies.hits.values())
            return outcome.replies > 0

        eventually(each_is_answered, "some are answered in time")


def test_a_server_that_closes_is_connected_to_anew(clients: Clients) -> None:
    """Where a server closes each connection, that is no failure, and the next one is made."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(HTTP_REPLY)

    with answering(answer) as address:
        way = Access(address, dialect="http", closes=True)
        assert clients.measure(way, Point("save", 2, 1), 0, SECONDS).users > 1


@pytest.mark.parametrize("point", [Point("save", 2, 1), Point("save", 2, 1, once=True)])
def test_a_server_that_closes_too_soon_fails_the_run(clients: Clients, point: Point) -> None:
    """A connection that ends in the middle of a reply is no reply."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(HTTP_REPLY[:-1])

    with answering(answer) as address, pytest.raises(BenchmarkFailed, match="closed a connection"):
        clients.measure(Access(address, dialect="http"), point, 0, SECONDS)


def test_a_token_needs_a_connection_that_lasts(clients: Clients) -> None:
    """A connection for each request would show no token, so it is refused, not measured wrongly."""
    way = Access(Address("127.0.0.1", 1), token="token")
    with pytest.raises(BenchmarkFailed, match="without tokens"):
        clients.measure(way, Point("save", 1, 1, once=True), 0, SECONDS)


@pytest.mark.parametrize("cut", range(1, len(HTTP_REPLY)))
def test_a_reply_is_whole_however_it_was_split(cut: int) -> None:
    """Of a reply that is cut anywhere nothing is handed on, until the rest has come."""
    ours, theirs = socket.socketpair()
    with theirs, closing(HttpLink(ours)) as link:
        link.setblocking(False)
        theirs.sendall(HTTP_REPLY[:cut])
        with pytest.raises(BlockingIOError):
            link.recv(1000)
        theirs.sendall(HTTP_REPLY[cut:])
        assert link.recv(1000) == SAVED + b"\n"


@pytest.mark.parametrize(
    "reply",
    [
        HTTP_REPLY.replace(b"200 OK", b"500 Internal Server Error"),
        HTTP_REPLY.replace(b"Content-Length", b"Content-Size"),
        HTTP_REPLY + b"more",
        HTTP_REPLY.replace(b"Password", b"Nopeword"),
    ],
)
def test_no_other_reply_of_http_passes(reply: bytes) -> None:
    """Another status, a body of unknown length or other words: the sentence shows what came."""
    ours, theirs = socket.socketpair()
    with theirs, closing(HttpLink(ours)) as link:
        theirs.sendall(reply)
        line = link.recv(1000).removesuffix(b"\n")
    checks = Counts(DIALECTS["http"].number_in, [SAVED])
    with pytest.raises(BenchmarkFailed, match=r"expected .*Password saved!"):
        checks.check(0, [line])


def test_the_list_of_redis_grows_with_each_save() -> None:
    """Others may save meanwhile, so the list may grow by more than what this connection saved."""
    checks = Lengths([True, False, True])
    checks.check(0, [b":1\r", b":5\r", b":6\r"])
    assert checks.users == 2


@pytest.mark.parametrize("reply", [b":1\r", b":0\r", b"-ERR full\r", b"$3\r", b"+OK\r", b""])
def test_no_other_reply_of_redis_passes(reply: bytes) -> None:
    """A save after which the list is no longer than before is not acknowledged, nor is an error."""
    checks = Lengths([True, True])
    checks.check(0, [b":1\r"])
    with pytest.raises(BenchmarkFailed):
        checks.check(1, [reply])
    assert checks.users == 1


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_only_a_number_is_a_number_of_users(dialect: Dialect) -> None:
    """What stands around it belongs to it, and nothing else is taken for one."""
    start, end = dialect.count_start, dialect.count_end
    assert dialect.number_in(start + b"12" + end) == 12
    for reply in (start + b"x" + end, start + end, b"x" + start + b"12" + end, b""):
        with pytest.raises(ValueError, match="expected a number of users"):
            dialect.number_in(reply)


def test_idle_connections_are_held_and_looked_after(home: Path, clients: Clients) -> None:
    """They disturb no other, and a server that does not keep them is found out."""
    with start_null(home) as target:
        way = target.ways().basic
        with idle(way, 50):
            outcome = clients.measure(way, Point("save", 2, 1), 0, SECONDS)
        assert number_of_users(way) == outcome.users > 0
    closed = threading.Event()

    def close(connection: socket.socket) -> None:
        connection.close()
        closed.set()

    with (
        answering(close) as address,
        pytest.raises(BenchmarkFailed, match="did not stay open"),
        idle(Access(address), 3),
    ):
        assert closed.wait(TIMEOUT_S)


def test_a_size_is_written_in_three_ways() -> None:
    """What is asked for on the command line is what is measured, and nonsense is refused."""
    assert sizes("64,8x64,64once") == [(64, 1, False), (8, 64, False), (64, 1, True)]
    assert str(Point("save", 64, 1, once=True)) == "save 64once"
    for text in ("8x64once", "once", "x8", "8x0", "0"):
        with pytest.raises(argparse.ArgumentTypeError):
            sizes(text)
