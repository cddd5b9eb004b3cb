"""Connections on their way from one process to another."""

import os
import socket

from pwserver.accepted import Accepted, accepted_from, told


def test_whose_they_are_is_told_with_the_sockets() -> None:
    """Address by address, also that of a Unix socket's client, and whether a balancer said it."""
    addresses = [
        ("127.0.0.1:5", False),
        ("", False),
        ("[2001:db8::1]:5", True),
        ("1.2.3.4:5", True),
    ]
    with socket.socket() as one:
        sent = told([Accepted(one, address, proxied) for address, proxied in addresses])
        copies = [os.dup(one.fileno()) for _ in addresses]
    assert sent[0] == 4
    arrived = accepted_from(sent, copies)
    for each in arrived:
        each.socket.close()
    assert [(each.address, each.proxied) for each in arrived] == addresses


def test_lost_descriptors_leave_the_first_clients() -> None:
    """The kernel delivers as many as the process may have, in their order."""
    with socket.socket() as one:
        sent = told([Accepted(one, "1.2.3.4:5"), Accepted(one, "1.2.3.4:6")])
        copy = os.dup(one.fileno())
    (only,) = accepted_from(sent, [copy])
    only.socket.close()
    assert (sent[0], only.address) == (2, "1.2.3.4:5")
