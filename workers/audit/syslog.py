"""Sends each record to the system's log as well: to syslog, or to journald, by the same socket.

A record is one datagram to a Unix socket (`/dev/log`) in the form of RFC 3164, as `logger` sends
it, with the facility for matters of security. It holds the line of the file, with its number and
MAC. Nothing waits for the system's log. What it does not take is kept for a moment, and then
dropped; the log of the service says so once, with the number as soon as it takes records again.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable

QUEUED_MAX = 1024
"""Records kept for a system's log that takes no more: at most 8 MiB, and a second of busy reading.
Linux queues ten datagrams of a socket, or 512 where systemd runs."""

_PAUSE_S = 1.0
"""How long after a failure the socket is not connected again."""

_AUTHPRIV_INFO = 10 << 3 | 6

log = logging.getLogger(__name__)


class Syslog:
    """One process's way to the system's log. Do not use it on both sides of a fork."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._queue: deque[bytes] = deque()
        self._dropped = 0
        self._failing = False
        self._connect_next_s = 0.0  # in time of the monotonic clock

    def send(self, lines: Iterable[bytes] = ()) -> None:
        """Send lines, after those that were not taken before. Never waits and never raises."""
        prefix = b"<%d>pwserver[%d]: " % (_AUTHPRIV_INFO, os.getpid())
        for line in lines:
            if len(self._queue) < QUEUED_MAX:
                self._queue.append(prefix + line.rstrip(b"\n"))
            else:
                self._dropped += 1
        if not self._queue:
            return
        try:
            self._send_queue()
        except BlockingIOError:
            if self._dropped:
                self._note_failure("it takes no more")
        except OSError as error:
            self.close()
            self._connect_next_s = time.monotonic() + _PAUSE_S
            self._note_failure(error.strerror or str(error))

    def close(self) -> None:
        """Close the socket. The next record opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_queue(self) -> None:
        if self._socket is None:
            if time.monotonic() < self._connect_next_s:
                return
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.connect(self._path)
        while self._queue:
            self._socket.send(self._queue[0])
            self._queue.popleft()
        if self._failing or self._dropped:
            self._failing = False
            log.info("%s gets the audit record again; it lacks %d", self._path, self._dropped)
            self._dropped = 0

    def _note_failure(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            log.error("%s does not get the audit record: %s", self._path, reason)
