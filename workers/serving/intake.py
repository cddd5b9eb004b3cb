"""Receives what arrives in a turn: first the single lines of idle connections, then the rest.

Most clients have one request in flight, so a turn usually receives one line on each of many
connections. Decoding, checking and sealing them one by one costs half as much again as doing them
together. So while the turn reads its sockets, a single line on an idle connection is set aside. At
the end of the turn one call decodes all these lines, and one call queues the plain saves among
them. Everything else is handled by its connection.

Connections that have sent more wait in a queue. Each handles one buffer in its turn, for a limited
time, so that clients with a single request do not wait for clients that send without end. What of a
buffer there is no time for waits in the queue again, behind the others. While single lines come,
the queue has a quarter of the time.

Knows nothing of the loop, and of a request only which command it is.
"""

import time
from collections import deque
from typing import Any

from pwserver.config import Settings
from pwserver.limits import (
    LINE_BYTES,
    LONG_TEXTS_S,
    PIECE_S,
    QUEUE_PART,
    RECEIVE_BYTES,
    SINGLE_LINES_S,
    SINGLES_LATELY_S,
)
from pwserver.tally import SAVES
from pwserver.wire.framing import decode_whole, request_decoder
from pwserver.wire.messages import Request
from workers.auth.applications import Caller
from workers.serving.commands import SAVE_PLAIN, command_of, save_together
from workers.serving.commit_queue import Saver
from workers.serving.connection import NEVER, Connection
from workers.serving.context import Context

_REST_S_MIN = 0.001
"""A shorter rest is put off until there is more of it: epoll waits for whole milliseconds."""

_PIECE_S_MAX = 0.02
"""What took longer counts as this: the process was stopped, or the machine stood still."""


class Intake:
    """The lines set aside in this turn, and the queue of connections that have sent more."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self.use(settings)
        self._connections: list[Connection] = []
        self._lines: list[bytes] = []
        # The data is None if it is not received yet, or if requests of earlier data are left.
        self._queue: deque[tuple[Connection, bytes | None]] = deque()
        self._singles_until = 0.0  # until then another single line is expected
        self._paid_at = 0.0  # then the others have had their part of the time again

    def use(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._message_bytes_max = settings.message_bytes_max
        self._in_flight_max = settings.in_flight_max

    @property
    def waiting(self) -> bool:
        """Whether connections are queued."""
        return bool(self._queue)

    @property
    def rests_s(self) -> float:
        """For how long, in seconds, the queue leaves the time to single lines, if anybody waits."""
        if not self._queue:
            return 0.0
        expected_s = self._singles_until - self._context.now
        rests_s = min(self._paid_at - time.monotonic(), expected_s)
        return rests_s if rests_s >= _REST_S_MIN else 0.0

    def add(self, connection: Connection) -> None:
        """Receive from a readable connection if it is idle; otherwise queue it."""
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
        self._queue_up(connection, data)

    def go_on(self, connection: Connection) -> None:
        """Queue a connection that has more to do, if it is not queued."""
        if not connection.queued:
            self._queue_up(connection, None)

    def _queue_up(self, connection: Connection, data: bytes | None) -> None:
        connection.queued = True
        self._queue.append((connection, data))

    def do_lines(self) -> None:
        """Handle the lines set aside."""
        if not self._lines:
            return
        self._singles_until = self._context.now + SINGLES_LATELY_S
        connections, lines = self._connections, self._lines
        self._connections, self._lines = [], []
        requests = self._decoded(lines)
        if requests is None:
            self._context.give_time(LONG_TEXTS_S)
            for connection, line in zip(connections, lines, strict=True):
                connection.receive_text(line)
        else:
            self._do_together(connections, lines, requests)

    def do_rest(self) -> None:
        """Handle the queue for a limited time, or leave this turn to single lines."""
        began = time.monotonic()
        if self._context.now >= self._singles_until:
            self._do_queue(LONG_TEXTS_S, RECEIVE_BYTES)
        elif not self.rests_s:
            self._do_queue(PIECE_S, LINE_BYTES)
            took_s = min(time.monotonic() - began, _PIECE_S_MAX)
            self._paid_at = max(self._paid_at, began) + took_s / QUEUE_PART

    def _do_queue(self, seconds: float, bytes_max: int) -> None:
        """Handle the queue, one buffer of each connection, until the time is over."""
        context = self._context
        context.give_time(seconds)
        while self._queue:
            connection, data = self._queue.popleft()
            connection.queued = False
            if data is not None:
                connection.receive_text(data)
            elif connection.more_to_do:
                connection.go_on()
            else:
                connection.receive(bytes_max)
            if context.late:
                return

    def do_received(self) -> None:
        """Handle all data that was received, so that a connection may receive what came after it.

        What there is no time for is done in the next turns.
        """
        self._context.give_time(LONG_TEXTS_S)
        for connection, data in list(self._queue):
            if data is not None:
                connection.receive_text(data)
        self._queue = deque([(connection, None) for connection, _ in self._queue])

    def _decoded(self, lines: list[bytes]) -> list[Request] | None:
        """Return the requests in the lines, or None if each connection must handle its own."""
        context = self._context
        low = context.scoreboard.disk_low_for_guests
        if len(lines) == 1 or context.commit_queue.may_be_full or low:
            return None
        requests = decode_whole(request_decoder, b"".join(lines), self._message_bytes_max)
        return requests if requests is not None and len(requests) == len(lines) else None

    def _do_together(
        self, connections: list[Connection], lines: list[bytes], requests: list[Request]
    ) -> None:
        """Do the requests of lines that came together; queue those for which there is no time."""
        context = self._context
        saves: dict[Caller, tuple[list[Saver], list[Any]]] = {}
        commands = [command_of(request) for request in requests]
        context.give_time(LONG_TEXTS_S if SAVE_PLAIN in commands else SINGLE_LINES_S)
        for connection, line, request, command in zip(
            connections, lines, requests, commands, strict=True
        ):
            connection.begun = True
            caller = connection.peer.caller
            if command is SAVE_PLAIN and not caller.saves_are_limited and connection.may(command):
                savers, plain = saves.get(caller) or saves.setdefault(caller, ([], []))
                savers.append((connection, [request.id]))
                plain.append(request)
                connection.unanswered += 1
                connection.silent_since = NEVER
                if connection.unanswered >= self._in_flight_max:
                    connection.touch()
            elif not context.late:
                connection.handle([request], len(line))
            else:
                self._queue_up(connection, line)
        for caller, (savers, plain) in saves.items():
            context.tally.did(caller.number, SAVES, len(plain))
            save_together(context, caller, savers, plain)
