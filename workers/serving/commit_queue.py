"""What is on its way to the writer, and who waits for it.

Rows and operations that arrive together travel together: one batch a turn of the worker's loop, and
a few in flight while the writer commits. The writer answers batches in the order they were sent.
This file knows what was sent, what was answered, and what to say when the writer is slow, away or
dead; it does not know what a row or an operation means. A batch that has an outcome is settled.
"""

import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pwserver.errors import NotSaved, Unavailable
from pwserver.ipc import FrameReader, frame
from pwserver.limits import BATCH_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, QUEUE_BYTES_MAX
from pwserver.wire.messages import Id, encode, passwords_saved
from workers.book.models import Row
from workers.serving.awaited import Awaited, Waiter
from workers.storage.writing import Operation, Result

Saver = tuple[Waiter, list[Id]]
"""A connection, and the ids of plain saves that came on it one after the other."""

ROW_OVERHEAD_BYTES = 64
"""What a row costs beside its sealed password, near enough for a limit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: done, certainly not done, or nobody knows."""

    done: bool = False
    known: bool = True
    reason: str = ""


DONE = Outcome(done=True)
UNKNOWN = Outcome(
    known=False,
    reason="The writer died before it answered: this may or may not have been done.",
)
TOO_LATE = Outcome(reason="The service is overloaded: this waited too long to be written.")
QUEUE_FULL = Outcome(reason="The service is overloaded: too many saves wait to be written.")


def not_saved(outcome: Outcome, id: Id) -> bytes:
    """Return the reply to a save that did not happen, or may not have."""
    word = NotSaved.message if outcome.known else Unavailable.message
    return encode(word, id, error=outcome.reason)


class Run(Awaited):
    """Plain saves that one connection has in one batch, one after the other; their ids."""

    __slots__ = ("batch", "ids", "waiter")

    def __init__(self, waiter: Waiter, batch: "Batch", ids: list[Id]) -> None:
        self.reply = None
        self.waiter = waiter
        self.batch = batch
        self.ids = ids

    @property
    def requests(self) -> int:
        """How many saves it answers."""
        return len(self.ids)

    def settle(self, outcome: Outcome) -> None:
        """Make the replies to all of them, and have the connection send them."""
        if outcome.done:
            self.reply = passwords_saved(self.ids)
        else:
            self.reply = b"".join([not_saved(outcome, id) for id in self.ids])
        self.waiter.settle()


@dataclass(slots=True, eq=False)
class Batch:
    """What is committed together, and who waits for it.

    `senders` are those who sent the operations, in their order, and get the results.
    """

    since: float  # when it was begun, in seconds of the monotonic clock
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    senders: list[Any] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    bytes: int = 0
    outcome: Outcome | None = None


class CommitQueue:
    """The queue of one worker to the writer."""

    def __init__(self) -> None:
        self._queued: deque[Batch] = deque()
        self._queued_bytes = 0
        self._in_flight: deque[Batch] = deque()
        self._channel: socket.socket | None = None
        self._reader: FrameReader | None = None
        self._unsent = b""
        self.newest_id: int | None = None  # in the database, as the present writer found it

    @property
    def full(self) -> bool:
        """Whether another save must be refused."""
        return self._queued_bytes >= QUEUE_BYTES_MAX

    @property
    def in_flight(self) -> bool:
        """Whether the writer is to answer something."""
        return bool(self._in_flight)

    @property
    def empty(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not (self._queued or self._in_flight)

    @property
    def unsent(self) -> bool:
        """Whether the channel was full, so that `send` is due when it can be written to again."""
        return bool(self._unsent)

    def add(self, savers: Iterable[Saver], rows: list[Row], size: int, now: float) -> None:
        """Queue rows of `size` bytes, and note with those who save them that they wait."""
        batch = self._open_batch(size, now)
        batch.rows += rows
        for waiter, ids in savers:
            awaited = waiter.awaited
            if awaited:
                last = awaited[-1]
                if isinstance(last, Run) and last.batch is batch:
                    last.ids += ids
                    continue
            run = Run(waiter, batch, ids)
            batch.runs.append(run)
            awaited.append(run)

    def add_operation(self, sender: Any, operation: Operation, size: int, now: float) -> None:
        """Queue an operation of `size` bytes; its sender gets the result with the batch."""
        batch = self._open_batch(size, now)
        batch.operations.append(operation)
        batch.senders.append(sender)

    def _open_batch(self, size: int, now: float) -> Batch:
        queued = self._queued
        if not queued or queued[-1].bytes >= BATCH_BYTES_MAX:
            queued.append(Batch(now))
        batch = queued[-1]
        batch.bytes += size
        self._queued_bytes += size
        return batch

    def send(self) -> None:
        """Send what may be in flight and keep the rest. Called once a turn."""
        if self.newest_id is None:
            return
        while self._queued and len(self._in_flight) < BATCHES_IN_FLIGHT_MAX and not self._unsent:
            batch = self._queued.popleft()
            self._queued_bytes -= batch.bytes
            self._in_flight.append(batch)
            self._unsent = frame((batch.rows, batch.operations))
            batch.rows = batch.operations = []  # what is on its way is not needed here any more
            self._write()
        if self._unsent:
            self._write()

    def _write(self) -> None:
        assert self._channel is not None
        try:
            self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # the writer died: its answers end, which `receive` notices
            self._unsent = b""

    def attach(self, channel: socket.socket) -> list[Batch]:
        """Talk to a new writer from now on; return what was lost with the old one."""
        lost = self.detach()
        self._channel = channel
        self._reader = FrameReader(channel)
        return lost

    def detach(self) -> list[Batch]:
        """Give the writer up; return what was in flight, whose fate nobody knows."""
        lost = list(self._in_flight)
        for batch in lost:
            batch.outcome = UNKNOWN
        self._in_flight.clear()
        self._unsent = b""
        if self._channel is not None:
            self._channel.close()
        self._channel = self._reader = self.newest_id = None
        return lost

    def receive(self) -> tuple[list[Batch], bool]:
        """Return the batches that the writer has answered, and whether it is gone.

        Its first frame is the newest id in the database; nothing is sent to it before. An answer is
        the list of the operations' results, or the reason why nothing of the batch was done.
        """
        assert self._reader is not None
        answered: list[Batch] = []
        for answer in self._reader.read():
            if isinstance(answer, int):
                self.newest_id = answer
                continue
            batch = self._in_flight.popleft()
            if isinstance(answer, str):
                batch.outcome = Outcome(reason=answer)
            else:
                batch.outcome = DONE
                batch.results = answer
            answered.append(batch)
        return answered, self._reader.ended

    def expire(self, before: float) -> list[Batch]:
        """Give up what has been queued since before a moment; it was never sent."""
        expired: list[Batch] = []
        while self._queued and self._queued[0].since < before:
            batch = self._queued.popleft()
            self._queued_bytes -= batch.bytes
            batch.outcome = TOO_LATE
            expired.append(batch)
        return expired
