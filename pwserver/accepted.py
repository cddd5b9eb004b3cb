"""A client's connection on its way from the listener, which accepts it, to a worker.

The sockets go from process to process in messages, with a text that says whose they are.
"""

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from pwserver.config import host_in_url

_PROXIED = "*"
"""Before an address in such a text: a balancer has said it. No address begins like this."""


class Accepted(NamedTuple):
    """A connection that was accepted, and its client's address as `shown_address` returns it."""

    socket: socket.socket
    address: str
    proxied: bool = False  # it came through a balancer, whose PROXY header was read


def told(clients: Sequence[Accepted]) -> bytes:
    """Return the text that goes with the clients' sockets: their number and their addresses."""
    addresses = [f"{_PROXIED}{each[1]}" if each[2] else each[1] for each in clients]
    return bytes([len(clients)]) + "\n".join(addresses).encode()


def accepted_from(text: bytes, descriptors: Sequence[int]) -> list[Accepted]:
    """Return the clients of such a text. They are fewer if descriptors were lost on the way."""
    clients = []
    for fd, address in zip(descriptors, text[1:].decode().split("\n"), strict=False):
        # With a type and a protocol it does not ask the kernel for them.
        client = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=fd)
        proxied = address[:1] == _PROXIED
        clients.append(Accepted(client, address[proxied:], proxied))
    return clients


def shown_address(accepted: Any) -> str:
    """Return the address of a client as text, from what `accept` returns for it.

    It is empty for the client of a Unix socket, whose user the worker finds.
    """
    if not isinstance(accepted, tuple):
        return ""
    host, port = accepted[:2]
    return f"{host_in_url(host)}:{port}"
