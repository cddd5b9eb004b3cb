"""TLS: what goes over it is served like anything else, and nobody waits for a handshake."""

import contextlib
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from statistics import median

import pytest

from tests.conftest import Start
from tests.faults.inject import open_files
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import PATIENCE_S, SAVED, Peer, Service, eventually, steady
from tests.support.tls import Authority, TlsByHand, tls_flags, tls_peer, trusting

SAVE = {"message": "save_password", "password": "abc123"}
PING_LINE = b'{"message": "ping"}\n'
ALIVE_LINE = b'{"message": "Alive!"}\n'
NOT_TLS = {"message": "Unavailable!", "error": "This address speaks TLS; use pwservers://."}


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """Return what a client has that trusts the authority."""
    return trusting(authority)


@pytest.fixture
def secure(start: Start, authority: Authority) -> Service:
    """Return a service with TLS."""
    return start(*tls_flags(authority.issue("localhost")))


@pytest.fixture
def peer(secure: Service, context: ssl.SSLContext) -> Iterator[Peer]:
    """Return a connection over TLS."""
    with tls_peer(secure, context) as connected:
        yield connected


# --- What goes over it. ---


def test_saves_go_over_tls(secure: Service, peer: Peer) -> None:
    """A save is answered with the contract's bytes, over TLS 1.3, and the first line says TLS."""
    peer.send(SAVE)
    assert peer.line() == SAVED
    assert peer.count() == 1
    assert isinstance(peer.socket, ssl.SSLSocket)
    assert peer.socket.version() == "TLSv1.3"
    assert f"listening on 127.0.0.1:{secure.port} (TLS), database" in secure.banner


def test_a_long_pipeline_is_served(peer: Peer) -> None:
    """Thousands of requests in great records, before the first reply is read, are all answered."""
    peer.send(*[SAVE] * 20_000)
    assert [peer.line() for _ in range(20_000)] == [SAVED] * 20_000
    assert peer.count() == 20_000


def test_many_records_may_arrive_at_once(secure: Service, context: ssl.SSLContext) -> None:
    """Requests in a record each, sent as one packet, are answered in their order."""
    with TlsByHand(secure, context) as client:
        client.shake_hands()
        requests = [json.dumps({**SAVE, "id": number}).encode() + b"\n" for number in range(500)]
        client.socket.sendall(b"".join(map(client.records, requests)) + client.farewell())
        replies = client.read_to_the_end().splitlines()
        assert [json.loads(reply)["id"] for reply in replies] == list(range(500))


def test_what_comes_with_the_end_of_the_handshake_is_done(
    secure: Service, context: ssl.SSLContext
) -> None:
    """A request that follows the handshake in the same packet is answered at once."""
    with TlsByHand(secure, context) as client:
        client.socket.sendall(client.hello())
        last = client.answer()
        client.socket.sendall(last + client.records(PING_LINE) + client.farewell())
        assert client.read_to_the_end() == ALIVE_LINE


def test_bytes_may_come_one_at_a_time(secure: Service, context: ssl.SSLContext) -> None:
    """Handshake, requests and the end are understood however they are split into packets."""
    with TlsByHand(secure, context) as client:
        _dribble(client.socket, client.hello())
        _dribble(client.socket, client.answer())
        _dribble(client.socket, client.records(PING_LINE * 2) + client.farewell())
        assert client.read_to_the_end() == ALIVE_LINE * 2


def _dribble(connected: socket.socket, data: bytes) -> None:
    for place in range(len(data)):
        connected.sendall(data[place : place + 1])


def test_who_sends_no_more_still_gets_the_replies(secure: Service, context: ssl.SSLContext) -> None:
    """After a client's close_notify its requests are answered, and the service says its own."""
    with TlsByHand(secure, context) as client:
        client.shake_hands()
        saves = (json.dumps(SAVE).encode() + b"\n") * 3000
        client.socket.sendall(client.records(saves) + client.farewell())
        assert client.read_to_the_end() == SAVED * 3000


def test_a_stop_is_announced(secure: Service, peer: Peer) -> None:
    """At a stop clients are told that this was all, so that nobody can pretend it was."""
    assert peer.ask(PING) == ALIVE
    assert secure.stop() == 0
    assert peer.ended()


def test_a_broken_record_ends_the_connection(
    secure: Service, context: ssl.SSLContext, peer: Peer
) -> None:
    """A record with one bit changed is not acted on; the client is told, others are served on."""
    with TlsByHand(secure, context) as client:
        client.shake_hands()
        record = bytearray(client.records(json.dumps(SAVE).encode() + b"\n"))
        record[-1] ^= 1
        client.socket.sendall(record)
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            client.read_to_the_end()
        assert peer.count() == 0


@pytest.mark.root("to see the open files of the service")
def test_a_client_that_vanishes_leaves_nothing(secure: Service, context: ssl.SSLContext) -> None:
    """Clients that go in the middle of a handshake, or of a connection, make room for others."""
    worker = secure.child("worker 1")

    with tls_peer(secure, context) as first:
        assert first.ask(PING) == ALIVE
    before = steady(
        lambda: open_files(worker), "what the worker has open"
    )  # the checker may be late
    for _ in range(50):
        with TlsByHand(secure, context) as begun:
            begun.socket.sendall(begun.hello())
        with tls_peer(secure, context) as peer:
            assert peer.ask(PING) == ALIVE
    eventually(lambda: open_files(worker) <= before, "as many open files as before")


# --- Who gets in. ---


def test_older_versions_are_refused(
    secure: Service, authority: Authority, context: ssl.SSLContext
) -> None:
    """A client that knows nothing newer than TLS 1.2 is told so."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        tls_peer(secure, context)


@pytest.mark.parametrize(
    ("kind", "alert"),
    [("untrusted", "UNKNOWN_CA"), ("expired", "CERTIFICATE_EXPIRED"), ("missing", "")],
)
def test_client_certificates(
    start: Start, authority: Authority, tmp_path_factory: pytest.TempPathFactory, kind: str,
    alert: str,
) -> None:  # fmt: skip
    """One of another authority, or an expired one, is refused with the reason; none is fine."""
    clients = Authority(tmp_path_factory.mktemp("clients"), "test clients")
    secure = start(*tls_flags(authority.issue("localhost")), "--tls-client-ca", str(clients.path))
    shown = {
        "untrusted": authority.issue("shop"),
        "expired": clients.issue("shop", days=-1),
        "missing": None,
    }[kind]
    with contextlib.ExitStack() as stack:
        if alert:
            stack.enter_context(pytest.raises(ssl.SSLError, match=alert))
        peer = stack.enter_context(tls_peer(secure, trusting(authority, shown)))
        assert peer.ask(PING) == ALIVE
    with tls_peer(secure, trusting(authority, clients.issue("shop"))) as peer:
        assert peer.ask(PING) == ALIVE


def test_a_client_in_the_clear_is_told(secure: Service) -> None:
    """Who does not speak TLS gets a plain line that says so, however much was sent, and an end."""
    for requests in (1, 50_000):
        with Peer(secure.port) as plain:
            plain.send(PING_LINE * requests)
            assert plain.reply() == NOT_TLS
            assert plain.ended()


def test_tls_where_there_is_none_ends(service: Service, context: ssl.SSLContext) -> None:
    """A client that speaks TLS to an address without it fails, and does not wait."""
    began = time.monotonic()
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        tls_peer(service, context)
    assert time.monotonic() - began < 5


# --- Nobody waits for a handshake. ---


def test_an_unfinished_handshake_is_closed_at_its_deadline(
    start: Start, authority: Authority, context: ssl.SSLContext
) -> None:
    """A client that says nothing, or half of it, is closed; one that is in may be silent."""
    secure = start(*tls_flags(authority.issue("localhost")), "--handshake-timeout-s", "1")
    with tls_peer(secure, context) as peer:
        assert peer.ask(PING) == ALIVE
        began = time.monotonic()
        with Peer(secure.port) as silent, TlsByHand(secure, context) as half:
            half.socket.sendall(half.hello()[:100])
            assert peer.ask(PING) == ALIVE
            assert silent.ended()
            assert half.socket.recv(1) == b""
        assert 0.9 < time.monotonic() - began < 5
        assert peer.ask(PING) == ALIVE


def test_a_stop_does_not_wait_for_handshakes(secure: Service) -> None:
    """A client that has not said anything is closed when the service stops."""
    with Peer(secure.port) as silent:
        secure.all_children()
        began = time.monotonic()
        assert secure.stop() == 0
        assert time.monotonic() - began < 5
        assert silent.ended()


def test_at_the_limit_handshakes_count(start: Start, authority: Authority) -> None:
    """Who is still in the handshake has a place, which is free again once it is over."""
    flags = tls_flags(authority.issue("localhost"))
    limits = ("--workers", "1", "--connections-max", "2", "--handshake-timeout-s", "1")
    secure = start(*flags, *limits)
    with Peer(secure.port) as one, Peer(secure.port) as two:
        began = time.monotonic()
        with tls_peer(secure, trusting(authority)) as third:
            assert third.ask(PING) == ALIVE
        assert time.monotonic() - began > 0.5
        assert one.ended()
        assert two.ended()


def test_a_burst_of_handshakes_holds_up_nobody(
    start: Start, authority: Authority, context: ssl.SSLContext
) -> None:
    """While a worker has hundreds of handshakes to do, those who are in get their answers between.

    The worker is stopped until they all wait there. Done one after the other, they would take a
    great part of a second; a ping is to wait for a few of them only.
    """
    secure = start(*tls_flags(authority.issue("localhost")), "--workers", "1")
    with tls_peer(secure, context) as peer, contextlib.ExitStack() as stack:
        assert peer.ask(PING) == ALIVE
        worker = secure.child("worker 1")
        os.kill(worker, signal.SIGSTOP)
        clients = [stack.enter_context(TlsByHand(secure, context)) for _ in range(300)]
        for client in clients:
            client.socket.sendall(client.hello())
        os.kill(worker, signal.SIGCONT)
        times = []
        while not _readable(clients[-1].socket):
            began = time.perf_counter()
            assert peer.ask(PING) == ALIVE
            times.append(time.perf_counter() - began)
        for client in clients:
            client.socket.sendall(client.answer() + client.records(PING_LINE) + client.farewell())
            assert client.read_to_the_end() == ALIVE_LINE
    assert len(times) > 10, "there was no time for pings in between"
    assert median(times) < 0.05


def _readable(connected: socket.socket) -> bool:
    connected.setblocking(False)
    try:
        return bool(connected.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connected.settimeout(PATIENCE_S)


def test_many_clients_at_once(secure: Service, context: ssl.SSLContext) -> None:
    """Connections that come and go at the same time over both workers lose no save."""
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(10):
                with tls_peer(secure, context) as peer:
                    assert peer.save() == {"message": "Password saved!"}
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with tls_peer(secure, context) as peer:
        assert peer.count() == 80
