"""Clients that do not go on with their handshake lose their place."""

import socket
import ssl

from pwserver.accepted import Accepted
from pwserver.limits import HURRY_S
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
