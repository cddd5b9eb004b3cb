"""A client's connection on its way from the listener, which accepts it, to a worker."""

import socket
from typing import Any, NamedTuple

from pwserver.config import host_in_url


class Accepted(NamedTuple):
    """A connection that was accepted, and its client's address as `shown_address` returns it."""

    socket: socket.socket
    address: str


def shown_address(accepted: Any) -> str:
    """Return the address of a client as text, from what `accept` returns for it.

    It is empty for the client of a Unix socket, whose user the worker finds.
    """
    if not isinstance(accepted, tuple):
        return ""
    host, port = accepted[:2]
    return f"{host_in_url(host)}:{port}"
