"""What has arrived in a turn, in the order in which it is done: what came alone, and then the rest.

Most clients have one request in flight, so what arrives in a turn is one line on each of many
connections. Decoding, checking and sealing them one by one costs half as much again as all of them
at once. So a line that came on a connection on which nothing is unfinished is put aside while the
turn reads its sockets. At the end of it all lines are decoded by one call, and the plain saves
among them are queued by one. Whatever is not as usual goes its connection's own way.

Connections with more to say wait in a queue, and each says a buffer of it in its turn, as long as
there is time: those who ask one thing are not to wait for those who send without end.

Knows nothing of the loop, nor of what a request means beyond who has it done.
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
    """What has arrived and is not done yet: lines, and connections that wait for their turn."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._message_bytes_max = settings.message_bytes_max
        self._in_flight_max = settings.in_flight_max
        self._connections: list[Connection] = []
        self._lines: list[bytes] = []
        self._queue: deque[tuple[Connection, bytes | None]] = deque()  # None: not received yet

    @property
    def waiting(self) -> bool:
        """Whether some connection's turn has not come yet."""
        return bool(self._queue)

    def add(self, connection: Connection, touched: set[Connection]) -> None:
        """Take note that there is something to receive on a connection."""
        connection.silent_since = NEVER
        if connection.queued:
            return
        data = None
        if connection.idle:
            try:
                data = connection.recv(LINE_BYTES)
            except OSError as error:
                if connection.receive_nothing(error):
                    touched.add(connection)
                return
            if data[-2:] == b"}\n" and data.count(b"\n") == 1:
                self._connections.append(connection)
                self._lines.append(data)
                return
        connection.queued = True
        self._queue.append((connection, data))

    def do_lines(self, touched: set[Connection]) -> None:
        """Do what came alone; add the connections of which `flush` is due."""
        if not self._lines:
            return
        connections, lines = self._connections, self._lines
        self._connections, self._lines = [], []
        requests = self._decoded(lines)
        if requests is None:
            for connection, line in zip(connections, lines, strict=True):
                if connection.receive_text(line):
                    touched.add(connection)
        else:
            self._do_together(connections, requests, touched)

    def do_rest(self, touched: set[Connection], *, all_of_it: bool = False) -> None:
        """Do of the rest what there is time for, or all; add the connections as `do_lines`."""
        until = NEVER if all_of_it else time.monotonic() + LONG_TEXTS_S
        while self._queue:
            connection, data = self._queue.popleft()
            connection.queued = False
            if connection.receive() if data is None else connection.receive_text(data):
                touched.add(connection)
            if time.monotonic() > until:
                return

    def _decoded(self, lines: list[bytes]) -> list[Request] | None:
        """Return what the lines ask for, or None where each is to go its own way."""
        if len(lines) == 1 or self._context.commit_queue.full:
            return None
        requests = decode_whole(request_decoder, b"".join(lines), self._message_bytes_max)
        return requests if requests is not None and len(requests) == len(lines) else None

    def _do_together(
        self, connections: list[Connection], requests: list[Request], touched: set[Connection]
    ) -> None:
        saves: dict[int, tuple[list[Saver], list[Any]]] = {}  # by book
        for connection, request in zip(connections, requests, strict=True):
            command = command_of(request)
            if command is SAVE_PLAIN and connection.may(command):
                book = connection.peer.caller.book
                savers, passwords = saves.get(book) or saves.setdefault(book, ([], []))
                savers.append((connection, [request.id]))
                passwords.append(request)
                connection.unanswered += 1
                if connection.unanswered >= self._in_flight_max:
                    touched.add(connection)
            elif connection.handle([request]):
                touched.add(connection)
        for book, (savers, passwords) in saves.items():
            save_together(self._context, book, savers, passwords)
