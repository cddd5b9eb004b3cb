"""How the service's own processes talk to each other: sockets, frames and a scoreboard.

There are three means, none of which knows what it carries:

- a control channel (a SOCK_SEQPACKET pair) for messages between the listener and a child, which may
  carry open sockets (SCM_RIGHTS, unix(7));
- a frame channel (a SOCK_STREAM pair) for batches to the worker that writes: a length, then
  `marshal` data. That is the fastest for plain tuples, and safe because both ends are the same
  program;
- a scoreboard in shared memory: numbers that one process writes and others read without asking.
"""

import marshal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from pwserver.memory import SharedArray
from pwserver.tally import WORDS

N = TypeVar("N", bound=int)

SOCKETS_MAX = 64
"""Sockets in one control message; the kernel takes at most 253 (SCM_MAX_FD)."""

_TEXT_BYTES_MAX = 4096
_LENGTH = struct.Struct("<I")
_RECEIVE_BYTES = 64 * 1024
"""Enough for most turns, and less than the allocator would request from the system at each call."""


def control_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new control channel, neither of which blocks."""
    return _pair(socket.SOCK_SEQPACKET)


def frame_channel() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new frame channel, neither of which blocks."""
    return _pair(socket.SOCK_STREAM)


def _pair(kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_control(channel: socket.socket, text: bytes, sockets: Sequence[int] = ()) -> None:
    """Send a short text with descriptors of sockets, all or nothing.

    Raises BlockingIOError if the other side has too much to read already, and OSError if it is
    gone.
    """
    socket.send_fds(channel, [text], list(sockets))


def receive_control(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """Return a text and the descriptors that came with it.

    If this process may not open as many files, there are fewer than were sent: the kernel has
    closed the rest. Returns None if nothing waits to be read. An empty text means that the other
    side is gone.
    """
    for _ in range(2):
        try:
            text, sockets, _, _ = socket.recv_fds(channel, _TEXT_BYTES_MAX, SOCKETS_MAX)
        except BlockingIOError:
            return None
        except (
            ConnectionResetError
        ):  # it ended with messages unread; what it sent before can still be read
            continue
        return text, sockets
    return b"", []


def frame(content: Any) -> bytes:
    """Return plain data (tuples, lists, numbers, texts, bytes, None) as a frame."""
    data = marshal.dumps(content)
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Reads frames from a channel. A frame that was cut short is never returned."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = b""
        self.ended = False
        self.more = False  # the last `read` left something to be read

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(_RECEIVE_BYTES)
        except ConnectionResetError:  # it died with frames unread; what it sent before can be read
            return self._channel.recv(_RECEIVE_BYTES)

    def read(self) -> Iterator[Any]:
        """Yield the frames that have arrived; set `ended` if the other side is gone."""
        self.more = False
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self.more = len(data) == _RECEIVE_BYTES
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            begin = at + _LENGTH.size
            end = begin + _LENGTH.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            yield marshal.loads(buffer[begin:end])
            at = end
        self._buffer = buffer[at:]


class _Number(Generic[N]):
    """A number of the scoreboard, as an attribute of it."""

    def __init__(self, place: int, kind: type[N]) -> None:
        self._place = place
        self._kind = kind

    def __get__(self, board: "Scoreboard", owner: object = None) -> N:
        return self._kind(board.words[self._place])

    def __set__(self, board: "Scoreboard", value: N) -> None:
        board.words[self._place] = value


class Scoreboard:
    """Numbers in shared memory, each an aligned 64-bit word that is read and written as a whole.

    Each child has three more: `beats`, which it changes as long as it is well, `closed`, the
    connections that a worker has closed since it was started, and `starts`. Children are numbered:
    the workers from 1, then the checker, the console, the process that makes backups and the
    monitor. Last come the children's
    blocks, in which the workers publish what they count (`pwserver.tally`).
    """

    users = _Number(0, int)
    """How many users there are; the writer's."""

    listing_wanted = _Number(1, bool)
    """Whether a listing was asked for that the console has not begun; theirs who ask, and its. The
    listener sets it for good if no listing is ever printed."""

    openings = _Number(2, int)
    """How often the writer has opened a database: readers follow it."""

    commit_us = _Number(8, int)
    """How long a commit takes at present, in microseconds; the writer's."""

    commit_since_us = _Number(9, int)
    """When the present commit began, in microseconds of the monotonic clock, or 0; the writer's."""

    writer_load = _Number(10, int)
    """How busy the worker that writes is, in percent of a processor; its own."""

    workers = _Number(3, int)
    """How many workers can be given work; the listener's."""

    _started_ns = _Number(4, int)

    crowded = _Number(5, bool)
    """Whether clients wait because there is no room for more; the listener's."""

    _outage_since_ms = _Number(6, int)
    _outage_reason = _Number(7, int)

    disk_low = _Number(11, bool)
    """Whether the disk has less room than saves must leave free; the writer's."""

    disk_low_for_guests = _Number(12, bool)
    """Whether it has less than saves of clients without a token must leave free: twice as much."""

    backup_ms = _Number(13, int)
    """When the newest backup was made that the backup process has verified or found (ms since
    1970), or 0; its own, as all that begins with `backup`."""

    backup_took_ms = _Number(14, int)
    """How long that took, with its verification; 0 if it was found at the start."""

    backup_bytes = _Number(15, int)
    """How long that backup is; 0 if it was found at the start."""

    backup_began_ms = _Number(16, int)
    """When the backup began that is being made (ms since 1970), or 0."""

    _backup_failed_ms = _Number(17, int)
    _backup_failure = _Number(18, int)

    committed_ms = _Number(19, int)
    """When the last commit succeeded, in milliseconds of the monotonic clock; the writer's."""

    probe_wanted = _Number(20, bool)
    """Whether the monitor wants to see a commit, also if there is nothing to save; its, and the
    writer's."""

    ticks = _Number(21, int)
    """Changes as long as the listener is well; its own."""

    database_server = _Number(22, int)
    """Which of several database servers has made the last commit, as a number; 0: there is only
    one. The writer's."""

    _SHARED_WORDS = 23
    """Words that stand before those of the children."""

    _CHILD_WORDS = 3

    def __init__(self, children: int) -> None:
        self._use(SharedArray("Q", self._SHARED_WORDS + (self._CHILD_WORDS + WORDS) * children))
        self._started_ns = time.monotonic_ns()

    def _use(self, array: SharedArray) -> None:
        self._array = array
        self.words = array.numbers
        own = self._CHILD_WORDS + WORDS
        self._children = (array.length - self._SHARED_WORDS) // own

    def __getstate__(self) -> SharedArray:
        return self._array

    def __setstate__(self, array: SharedArray) -> None:
        self._use(array)

    @property
    def started_s(self) -> float:
        """When the service was started, in seconds of the monotonic clock."""
        return self._started_ns / 1e9

    def opened(self) -> None:
        """Note that the writer has opened a database."""
        self.openings += 1

    @property
    def outage(self) -> tuple[int, int]:
        """Since when changes cannot be written (ms since 1970), or 0, and the reason's number."""
        return self._outage_since_ms, self._outage_reason

    def note_outage(self, reason: int) -> None:
        """Note that changes cannot be written now, and the number of the reason."""
        self._outage_reason = reason
        if not self._outage_since_ms:
            self._outage_since_ms = time.time_ns() // 1_000_000

    def end_outage(self) -> None:
        """Note that changes can be written."""
        self._outage_since_ms = 0

    @property
    def backup_failure(self) -> tuple[int, int]:
        """Since when backups fail (ms since 1970), or 0, and the number of the last reason."""
        return self._backup_failed_ms, self._backup_failure

    def backup_begins(self, at_ms: int | None = None) -> None:
        """Note that a backup is being made, or with 0 that it was given up."""
        self.backup_began_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms

    def backup_made(self, at_ms: int, took_ms: int, size_bytes: int) -> None:
        """Note a backup that was made and verified."""
        self.backup_ms, self.backup_took_ms, self.backup_bytes = at_ms, took_ms, size_bytes
        self.backup_began_ms = self._backup_failed_ms = 0

    def backup_failed(self, reason: int) -> None:
        """Note that a backup failed, and the number of the reason."""
        self._backup_failure = reason
        if not self._backup_failed_ms:
            self._backup_failed_ms = time.time_ns() // 1_000_000
        self.backup_began_ms = 0

    def beat(self, child: int) -> None:
        """Note that a child is well."""
        self.words[self._words_of(child)] += 1

    def beats(self, child: int) -> int:
        """Return a number that differs from the last one if the child was well in between."""
        return int(self.words[self._words_of(child)])

    def closed(self, child: int) -> int:
        """Return how many connections a worker has closed since it was started."""
        return int(self.words[self._words_of(child) + 1])

    def add_closed(self, child: int, number: int = 1) -> None:
        """Count connections that a worker has closed."""
        self.words[self._words_of(child) + 1] += number

    def reset(self, child: int) -> None:
        """Begin again for a child that is about to be started, and count the start."""
        self.words[self._words_of(child) + 1] = 0
        self.words[self._words_of(child) + 2] += 1

    def starts(self, child: int) -> int:
        """Return how often a child was started."""
        return int(self.words[self._words_of(child) + 2])

    def block(self, child: int) -> "memoryview[Any]":
        """Return the block in which a worker publishes what it counts."""
        end = len(self.words) - (self._children - child) * WORDS
        return self.words[end - WORDS : end]

    def _words_of(self, child: int) -> int:
        """Return where a child's own words are."""
        return self._SHARED_WORDS + self._CHILD_WORDS * (child - 1)
