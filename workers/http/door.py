"""Bounds the connections of the monitor, from their first moment on.

uvicorn does not know of a connection before its TLS handshake, so it bounds neither the number of
these nor their time. Knows nothing of HTTP.
"""

import contextlib
import socket
import time
from asyncio.sslproto import SSLProtocol
from typing import Any

CONNECTIONS_MAX = 64
"""At one address. Beyond these the oldest ends, so that a crowd of silent clients keeps nobody out:
a request is answered in milliseconds."""

_CONNECTION_S = 10.0
"""How long a connection may last. Each has one request, which is answered in milliseconds, or after
the delay of a wrong token."""

_TLS_BYTES_MAX = 16 * 1024
"""How much is decrypted at a time: a record of TLS. Each connection has a buffer of that size, also
before its handshake, of which asyncio makes 256 KiB."""


def save_memory_of_tls() -> None:
    """Have connections with TLS take less memory, in this process."""
    SSLProtocol.max_size = _TLS_BYTES_MAX


class Door(socket.socket):
    """A listening socket that ends the oldest of its connections, and the old ones."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._open: dict[socket.socket, float] = {}  # in the order of their beginnings
        self._ended = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; end the oldest if there are too many."""
        connection, address = super().accept()
        self._forget_ended()
        self._open[connection] = time.monotonic()
        if len(self._open) > CONNECTIONS_MAX:
            self._end(next(iter(self._open)))
        return connection, address

    def end_old(self) -> int:
        """End connections that have lasted too long, whatever the client does or does not.

        Returns how many were ended since the last call, for having lasted or for being the oldest.
        """
        self._forget_ended()
        before = time.monotonic() - _CONNECTION_S
        for connection in [each for each, since in self._open.items() if since < before]:
            self._end(connection)
        ended, self._ended = self._ended, 0
        return ended

    def _forget_ended(self) -> None:
        for connection in [each for each in self._open if each.fileno() < 0]:
            del self._open[connection]

    def _end(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._ended += 1
        with contextlib.suppress(OSError):  # the client has ended it
            connection.shutdown(socket.SHUT_RDWR)
