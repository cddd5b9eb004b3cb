"""Answers constants and keeps nothing: what the load generator reaches when a server costs little.

It knows the basic contract's loads only, and counts the saves without reading them, so that the
run's own check holds. One process, one epoll loop; it expects no bad input.
"""

from __future__ import annotations

import select
import signal
import socket
import sys

from benchmarks.client.dialects import (
    COUNT_REPLY_END,
    COUNT_REPLY_START,
    COUNT_REQUEST,
    SAVED_REPLY,
)

RECEIVE_BYTES = 65536
BACKLOG = 4096
SAVE = b'"save_password"'
INVALID_REPLY = b'{"message": "Invalid message!"}'


class NullServer:
    """The connections of the one process, and the number of saves it has seen."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, socket.socket] = {}
        self.tails: dict[int, bytes] = {}
        self.saves = 0

    def run(self) -> None:
        """Serve until a signal ends the process."""
        while True:
            for fd, _ in self.epoll.poll():
                if fd in self.connections:
                    self.serve(fd)
                else:
                    self.accept()

    def accept(self) -> None:
        """Take one waiting connection."""
        connection, _ = self.listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[connection.fileno()] = connection
        self.tails[connection.fileno()] = b""
        self.epoll.register(connection.fileno(), select.EPOLLIN)

    def serve(self, fd: int) -> None:
        """Answer what is readable on one connection, or forget it when the client has closed it."""
        try:
            data = self.connections[fd].recv(RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self.connections.pop(fd).close()
            del self.tails[fd]
            return
        whole, newline, self.tails[fd] = (self.tails[fd] + data).rpartition(b"\n")
        if newline:
            self.connections[fd].sendall(self.replies_to(whole + newline))

    def replies_to(self, requests: bytes) -> bytes:
        """Return the replies to whole requests; the common case, saves alone, costs two scans."""
        saves = requests.count(SAVE)
        if saves == requests.count(b"\n"):
            self.saves += saves
            return (SAVED_REPLY + b"\n") * saves
        replies = []
        for request in requests.splitlines(keepends=True):
            if request == COUNT_REQUEST:
                replies.append(b"%b%d%b\n" % (COUNT_REPLY_START, self.saves, COUNT_REPLY_END))
            elif SAVE in request:
                self.saves += 1
                replies.append(SAVED_REPLY + b"\n")
            else:
                replies.append(INVALID_REPLY + b"\n")
        return b"".join(replies)


def main() -> None:
    """Listen on a free port, and say where that is."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    server = NullServer()
    host, port = server.listener.getsockname()[:2]
    print(f"null_server listening on {host}:{port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
