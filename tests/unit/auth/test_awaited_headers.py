"""Connections from balancers until their header has arrived: who is asked, and for how long."""

import socket
from collections.abc import Iterator

import pytest

from pwserver.accepted import Accepted
from pwserver.limits import HURRY_S
from tests.support.proxy import LOCAL, UNSPEC, header, header_of
from workers.auth.awaited_headers import AwaitedHeaders

TIMEOUT_S = 10.0
FROM = "10.0.0.5:5"


@pytest.fixture
def headers() -> AwaitedHeaders:
    """Return the table of a worker, whose balancers are in one network."""
    return AwaitedHeaders("10.0.0.0/8", TIMEOUT_S)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the balancer's end of a connection and the service's."""
    balancer, service = socket.socketpair()
    service.setblocking(False)
    with balancer, service:
        yield balancer, service


def test_balancers_alone_are_asked_for_a_header(headers: AwaitedHeaders) -> None:
    """Not who has shown one to another process, and nobody who comes by a Unix socket."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        assert headers.expects(Accepted(tcp, "10.0.0.5:5"))
        assert headers.expects(Accepted(tcp, "[::ffff:10.0.0.5]:5"))
        assert not headers.expects(Accepted(tcp, "11.0.0.5:5"))
        assert not headers.expects(Accepted(tcp, "[2001:db8::1]:5"))
        assert not headers.expects(Accepted(tcp, "10.0.0.5:5", proxied=True))
        assert not headers.expects(Accepted(unix, ""))
        assert not headers.expects(Accepted(unix, "10.0.0.5:5"))


def test_a_header_is_taken_off_and_no_more(
    headers: AwaitedHeaders, ends: tuple[socket.socket, socket.socket]
) -> None:
    """It may come in pieces; what follows it is for whoever serves the client."""
    balancer, service = ends
    headers.add(Accepted(service, FROM), 0.0)
    sent = header_of("203.0.113.7", 5)
    for at in range(len(sent)):
        assert headers.work() == []
        balancer.sendall(sent[at : at + 1] + (b"rest" if at == len(sent) - 1 else b""))
    assert headers.work() == [(Accepted(service, "203.0.113.7:5", proxied=True), "")]
    assert len(headers) == 0
    assert service.recv(9) == b"rest"


def test_a_check_of_the_balancers_own_has_its_address(
    headers: AwaitedHeaders, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Also one that says nothing and ends."""
    balancer, service = ends
    other, silent = socket.socketpair()
    with silent:
        silent.setblocking(False)
        headers.add(Accepted(service, FROM), 0.0)
        headers.add(Accepted(silent, FROM), 0.0)
        balancer.sendall(header(LOCAL, UNSPEC))
        other.close()
        arrived = dict.fromkeys(headers.work())
        expected = [(Accepted(each, FROM, proxied=True), "") for each in (service, silent)]
        assert arrived == dict.fromkeys(expected)


def test_an_end_within_the_header_is_refused(
    headers: AwaitedHeaders, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Nobody knows whose connection it was."""
    balancer, service = ends
    client = Accepted(service, FROM)
    headers.add(client, 0.0)
    balancer.sendall(header_of()[:-1])
    assert headers.work() == []
    balancer.close()
    assert headers.work() == [(client, "PROXY header cut short")]
    assert len(headers) == 0


def test_a_header_must_come_in_time(
    headers: AwaitedHeaders, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Sooner while few places are left; the bytes that trickle in give no more time."""
    balancer, service = ends
    other, silent = socket.socketpair()
    begun, client = Accepted(service, FROM), Accepted(silent, FROM)
    with other, silent:
        silent.setblocking(False)
        headers.add(begun, 0.0)
        headers.add(client, 1.0)
        balancer.sendall(header_of()[:3])
        assert headers.work() == []
        assert headers.expire(HURRY_S + 0.5) == []
        assert headers.expire(HURRY_S + 0.5, hurry=True) == [(begun, "PROXY header cut short")]
        assert headers.expire(TIMEOUT_S + 0.5) == []
        assert headers.expire(TIMEOUT_S + 1.0) == [(client, "no PROXY header")]
        assert len(headers) == 0


def test_another_process_gets_what_was_not_read(
    headers: AwaitedHeaders, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Of a connection whose header has begun nobody could read the rest: it ends."""
    balancer, service = ends
    other, untouched = socket.socketpair()
    with other, untouched:
        headers.add(Accepted(service, FROM), 0.0)
        headers.add(Accepted(untouched, FROM), 0.0)
        balancer.sendall(header_of()[:3])
        headers.work()
        assert headers.release() == [Accepted(untouched, FROM)]
        assert headers.close() == 1
        assert len(headers) == 0
        assert balancer.recv(1) == b""
