"""Clients that do not go on with their handshake lose their place."""

import contextlib
import socket
import ssl

import pytest

from pwserver.accepted import Accepted
from pwserver.limits import HURRY_S
from workers.tls import handshakes as handshaking
from workers.tls.handshakes import Handshakes

TIMEOUT_S = 10.0


def test_a_handshake_must_hurry_while_few_places_are_left() -> None:
    """It has its whole time otherwise; who came later has as long."""
    handshakes = Handshakes(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), TIMEOUT_S)
    (one, its), (two, other) = socket.socketpair(), socket.socketpair()
    with one, two:
        handshakes.add(Accepted(its, ""), 0.0)
        handshakes.add(Accepted(other, ""), 1.0)
        assert len(handshakes) == 2
        assert handshakes.expire(HURRY_S + 0.5) == 0
        assert handshakes.expire(HURRY_S + 0.5, hurry=True) == 1
        assert one.recv(1) == b""
        assert handshakes.expire(TIMEOUT_S + 0.5) == 0
        assert handshakes.expire(TIMEOUT_S + 1.0) == 1
        assert len(handshakes) == 0


def test_those_that_have_begun_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that began first ends; who has sent nothing keeps no memory, and does not count."""
    monkeypatch.setattr(handshaking, "BEGUN_MAX", 2)
    handshakes = Handshakes(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), TIMEOUT_S)
    with contextlib.ExitStack() as opened:
        clients = []
        for _ in range(4):
            client, served = map(opened.enter_context, socket.socketpair())
            served.setblocking(False)
            handshakes.add(Accepted(served, ""), 0.0)
            clients.append((client, served))
        for client, _ in clients[1:]:
            assert handshakes.work() == []
            client.send(b"\x16")
        (ended,) = handshakes.work()
        assert (ended.client.socket, ended.codec) == (clients[1][1], None)
        assert len(handshakes) == 3
        assert [each.socket for each in handshakes.release()] == [clients[0][1]]
        assert handshakes.close() == 2
