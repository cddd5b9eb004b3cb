"""A worker's queue of batches to the writer, and the connections that wait for them.

Rows and operations of one turn go into one batch, and a few batches are in flight while the writer
commits. The writer answers batches in the order in which they were sent. This file knows what was
sent and answered, and what to reply when the writer is slow, restarting or dead; it does not know
what a row or an operation means. A batch is settled when it has an outcome.
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
"""A connection, and the ids of consecutive plain saves on it."""

ROW_OVERHEAD_BYTES = 64
"""The approximate memory that a queued row takes besides its sealed password."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a batch: done, certainly not done, or unknown."""

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
    """Return the reply to a save that was not done, or may not have been done."""
    word = NotSaved.message if outcome.known else Unavailable.message
    return encode(word, id, error=outcome.reason)


class Run(Awaited):
    """Consecutive plain saves of one connection in one batch."""

    __slots__ = ("batch", "ids", "waiter")

    def __init__(self, waiter: Waiter, batch: "Batch", ids: list[Id]) -> None:
        self.reply = None
        self.waiter = waiter
        self.batch = batch
        self.ids = ids

    @property
    def requests(self) -> int:
        """How many saves this answers."""
        return len(self.ids)

    def settle(self, outcome: Outcome) -> None:
        """Make the replies to all saves, and have the connection send them."""
        if outcome.done:
            self.reply = passwords_saved(self.ids)
        else:
            self.reply = b"".join([not_saved(outcome, id) for id in self.ids])
        self.waiter.settle()


@dataclass(slots=True, eq=False)
class Batch:
    """What is committed together, and the connections that wait for it.

    `senders` are the senders of the operations, in the same order; they get the results.
    """

    since: float  # when its first row was queued, in seconds of the monotonic clock
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    senders: list[Any] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    bytes: int = 0
    outcome: Outcome | None = None


class CommitQueue:
    """One worker's queue to the writer."""

    def __init__(self) -> None:
        self._queued: deque[Batch] = deque()
        self._queued_bytes = 0
        self._in_flight: deque[Batch] = deque()
        self._channel: socket.socket | None = None
        self._reader: FrameReader | None = None
        self._unsent = b""
        self.newest_id: int | None = None  # in the database when the present writer opened it

    @property
    def full(self) -> bool:
        """Whether another save must be refused."""
        return self._queued_bytes >= QUEUE_BYTES_MAX

    @property
    def in_flight(self) -> bool:
        """Whether an answer of the writer is awaited."""
        return bool(self._in_flight)

    @property
    def empty(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not (self._queued or self._in_flight)

    @property
    def unsent(self) -> bool:
        """Whether the channel was full, so that `send` must be called when it is writable."""
        return bool(self._unsent)

    def add(self, savers: Iterable[Saver], rows: list[Row], size: int, now: float) -> None:
        """Queue rows of `size` bytes, and add what their savers wait for to their queues."""
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
        """Queue an operation of `size` bytes; its sender gets the result when it is known."""
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
        """Send as many batches as may be in flight and keep the rest. Called once a turn."""
        if self.newest_id is None:
            return
        while self._queued and len(self._in_flight) < BATCHES_IN_FLIGHT_MAX and not self._unsent:
            batch = self._queued.popleft()
            self._queued_bytes -= batch.bytes
            self._in_flight.append(batch)
            self._unsent = frame((batch.rows, batch.operations))
            batch.rows = batch.operations = []  # not needed after they are sent
            self._write()
        if self._unsent:
            self._write()

    def _write(self) -> None:
        assert self._channel is not None
        try:
            self._unsent = self._unsent[self._channel.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # the writer has died; `receive` notices the end of its answers
            self._unsent = b""

    def attach(self, channel: socket.socket) -> list[Batch]:
        """Use the channel to a new writer; return the batches lost with the old one."""
        lost = self.detach()
        self._channel = channel
        self._reader = FrameReader(channel)
        return lost

    def detach(self) -> list[Batch]:
        """Give up the writer; return the batches in flight, whose outcome is unknown."""
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
        """Return the batches that the writer has answered, and whether the writer is gone.

        The writer's first frame is the newest id in the database; `send` waits for it. An answer is
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
        """Give up the batches queued before a time; they were never sent."""
        expired: list[Batch] = []
        while self._queued and self._queued[0].since < before:
            batch = self._queued.popleft()
            self._queued_bytes -= batch.bytes
            batch.outcome = TOO_LATE
            expired.append(batch)
        return expired
