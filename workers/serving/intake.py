"""Receives what arrives in a turn: first the single lines of idle connections, then the rest.

Most clients have one request in flight, so a turn usually receives one line on each of many
connections. Decoding, checking and sealing them one by one costs half as much again as doing them
together. So while the turn reads its sockets, a single line on an idle connection is set aside. At
the end of the turn one call decodes all these lines, and one call queues the plain saves among
them. Everything else is handled by its connection.

Connections that have sent more wait in a queue. Each handles one buffer in its turn, for a limited
time, so that clients with a single request do not wait for clients that send without end.

Knows nothing of the loop, and of a request only which command it is.
"""

import time
from collections import deque
from typing import Any

from pwserver.config import Settings
from pwserver.limits import LINE_BYTES, LONG_TEXTS_S
from pwserver.wire.framing import decode_whole, request_decoder
from pwserver.wire.messages import Request
from workers.serving.commands import SAVE_PLAIN, command_of, save_together
from workers.serving.commit_queue import Saver
from workers.serving.connection import NEVER, Connection
from workers.serving.context import Context


class Intake:
    """The lines set aside in this turn, and the queue of connections that have sent more."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._message_bytes_max = settings.message_bytes_max
        self._in_flight_max = settings.in_flight_max
        self._connections: list[Connection] = []
        self._lines: list[bytes] = []
        self._queue: deque[tuple[Connection, bytes | None]] = deque()  # None: not received yet

    @property
    def waiting(self) -> bool:
        """Whether connections are queued."""
        return bool(self._queue)

    def add(self, connection: Connection) -> None:
        """Receive from a readable connection if it is idle; otherwise queue it."""
        connection.silent_since = NEVER
        if connection.queued:
            return
        data = None
        if connection.idle:
            try:
                data = connection.recv(LINE_BYTES)
            except OSError as error:
                connection.receive_nothing(error)
                return
            if data[-2:] == b"}\n" and data.count(b"\n") == 1:
                self._connections.append(connection)
                self._lines.append(data)
                return
        connection.queued = True
        self._queue.append((connection, data))

    def do_lines(self) -> None:
        """Handle the lines set aside."""
        if not self._lines:
            return
        connections, lines = self._connections, self._lines
        self._connections, self._lines = [], []
        requests = self._decoded(lines)
        if requests is None:
            for connection, line in zip(connections, lines, strict=True):
                connection.receive_text(line)
        else:
            self._do_together(connections, lines, requests)

    def do_rest(self, *, all_of_it: bool = False) -> None:
        """Handle the queue for a limited time, or all of it."""
        until = NEVER if all_of_it else time.monotonic() + LONG_TEXTS_S
        while self._queue:
            connection, data = self._queue.popleft()
            connection.queued = False
            if data is None:
                connection.receive()
            else:
                connection.receive_text(data)
            if time.monotonic() > until:
                return

    def _decoded(self, lines: list[bytes]) -> list[Request] | None:
        """Return the requests in the lines, or None if each connection must handle its own."""
        if len(lines) == 1 or self._context.commit_queue.full:
            return None
        requests = decode_whole(request_decoder, b"".join(lines), self._message_bytes_max)
        return requests if requests is not None and len(requests) == len(lines) else None

    def _do_together(
        self, connections: list[Connection], lines: list[bytes], requests: list[Request]
    ) -> None:
        """Do the requests of lines that came together; queue those for which there is no time."""
        until = time.monotonic() + LONG_TEXTS_S
        saves: dict[int, tuple[list[Saver], list[Any]]] = {}  # by book
        for connection, line, request in zip(connections, lines, requests, strict=True):
            command = command_of(request)
            caller = connection.peer.caller
            if command is SAVE_PLAIN and not caller.saves_are_limited and connection.may(command):
                book = caller.book
                savers, plain = saves.get(book) or saves.setdefault(book, ([], []))
                savers.append((connection, [request.id]))
                plain.append(request)
                connection.unanswered += 1
                if connection.unanswered >= self._in_flight_max:
                    connection.touch()
            elif time.monotonic() < until:
                connection.handle([request])
            else:
                connection.queued = True
                self._queue.append((connection, line))
        for book, (savers, plain) in saves.items():
            save_together(self._context, book, savers, plain)
