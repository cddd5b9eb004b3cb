"""A worker's queue of batches to the writer, and the connections that wait for them.

Rows and operations of one turn go into one batch. The worker that writes takes its batches at the
end of the turn and commits them, or in a later turn if the store takes none now. The others send
them to it over a channel, and a few are in flight while it commits; it answers them in the order in
which they were sent. This file knows what was sent and answered, and what to reply when the writer
is slow, restarting or dead; it does not know what a row or an operation means. A batch is settled
when it has an outcome.

What is queued is bounded, and shared fairly between callers (`shares`). While much is queued, the
rows of a caller that has little of it are committed first: they join the batch that is sent next,
and do not wait for all that another caller has sent before.

A count of users that follows plain saves on its connection goes into their batch, so that a
pipeline of saves and counts needs one commit. Its number is that of the users before the batch and
of the rows before it. That is the order in which a transaction happens: its rows, batch by batch,
then its operations.
"""

import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pwserver.errors import NotSaved, Unavailable
from pwserver.ipc import FrameReader, Scoreboard, frame
from pwserver.limits import BATCH_BYTES_MAX, BATCHES_IN_FLIGHT_MAX, QUEUE_BYTES_MAX
from pwserver.wire.messages import Id, encode, passwords_saved, return_number_of_users
from workers.book.models import Row
from workers.serving.awaited import Awaited, Waiter
from workers.serving.shares import Shares, Who, named
from workers.storage.operations import Answer, Operation, Result

Saver = tuple[Waiter, list[Id]]
"""A connection, and the ids of consecutive plain saves on it."""

ROW_OVERHEAD_BYTES = 64
"""The approximate memory that a queued row takes besides its sealed password."""

_JOINED_BYTES_MAX = BATCH_BYTES_MAX // 8
"""How much of a caller joins a batch that is full already."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a batch: done, certainly not done, or unknown."""

    done: bool = False
    known: bool = True
    reason: str = ""


DONE = Outcome(done=True)
UNKNOWN = Outcome(
    known=False,
    reason="The answer of the writer is lost: this may or may not have been done.",
)
TOO_LATE = Outcome(reason="The service is overloaded: this waited too long to be written.")


def queue_full(who: Who) -> Outcome:
    """Return the outcome of a save of a caller that has its share of the queue already."""
    return Outcome(
        reason=f"The service is overloaded: too many saves of {named(who)} wait to be written."
    )


def not_saved(outcome: Outcome, id: Id) -> bytes:
    """Return the reply to a save that was not done, or may not have been done."""
    word = NotSaved.message if outcome.known else Unavailable.message
    return encode(word, id, error=outcome.reason)


class Run(Awaited, ABC):
    """Consecutive plain saves, or counts of users, of one connection in one batch."""

    __slots__ = ("alone", "batch", "ids", "waiter")

    lasts = True

    def __init__(self, waiter: Waiter, batch: "Batch", ids: list[Id], *, alone: bool) -> None:
        self.reply = None
        self.waiter = waiter
        self.batch = batch
        self.ids = ids
        self.alone = alone  # its connection awaits nothing before it but runs

    @property
    def requests(self) -> int:
        """How many requests this answers."""
        return len(self.ids)

    def settle(self, outcome: Outcome) -> None:
        """Make the replies to all requests, and have the connection send them."""
        self.reply = self._replies(outcome)
        self.waiter.settle()

    @abstractmethod
    def _replies(self, outcome: Outcome) -> bytes:
        """Return the joined replies."""


class Saves(Run):
    """Consecutive plain saves."""

    __slots__ = ()

    def _replies(self, outcome: Outcome) -> bytes:
        if outcome.done:
            return passwords_saved(self.ids)
        return b"".join([not_saved(outcome, id) for id in self.ids])


class Counts(Run):
    """Consecutive counts of users, after the rows that their batch has so far."""

    __slots__ = ("_rows", "_scoreboard")

    def __init__(
        self, waiter: Waiter, batch: "Batch", ids: list[Id], scoreboard: Scoreboard
    ) -> None:
        super().__init__(waiter, batch, ids, alone=True)
        self._rows = len(batch.rows)
        self._scoreboard = scoreboard

    def _replies(self, outcome: Outcome) -> bytes:
        users = self.batch.users + self._rows if outcome.done else self._scoreboard.users
        return b"".join([return_number_of_users(users, id) for id in self.ids])


@dataclass(slots=True, eq=False)
class Batch:
    """What is committed together, and the connections that wait for it.

    `senders` are the senders of the operations, in the same order; they get the results.
    """

    since: float  # when its first row was queued, in seconds of the monotonic clock
    rows: list[Row] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    saves: int = 0  # plain ones
    counts: int = 0
    operations: list[Operation] = field(default_factory=list)
    senders: list[Any] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    users: int = 0  # before it
    bytes: int = 0
    shares: dict[Who, int] = field(default_factory=dict)  # the bytes of each caller
    queued: bool = True  # more may join it
    outcome: Outcome | None = None

    def answer(self, answer: Answer) -> None:
        """Note the writer's answer."""
        if answer is None:
            self.outcome = UNKNOWN
        elif isinstance(answer, str):
            self.outcome = Outcome(reason=answer)
        else:
            self.users, self.results = answer
            self.outcome = DONE


class CommitQueue:
    """One worker's queue to the writer."""

    def __init__(self) -> None:
        self._queued: deque[Batch] = deque()
        self._shares = Shares(QUEUE_BYTES_MAX)
        self._in_flight: deque[Batch] = deque()
        self._channel: socket.socket | None = None
        self._reader: FrameReader | None = None
        self._unsent = b""
        self.newest_id: int | None = None  # in the database when the present writer opened it

    def full(self, who: Who) -> bool:
        """Tell whether another save of a caller must be refused."""
        return self._shares.full(who)

    @property
    def bytes_queued(self) -> int:
        """How much waits to be sent to the writer."""
        return self._shares.total

    @property
    def may_be_full(self) -> bool:
        """Whether another save of some caller may have to be refused."""
        return self._shares.may_be_full

    @property
    def in_flight(self) -> bool:
        """Whether an answer of the writer is awaited."""
        return bool(self._in_flight)

    @property
    def waits(self) -> bool:
        """Whether something is queued that was not taken or sent."""
        return bool(self._queued)

    @property
    def empty(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not (self._queued or self._in_flight)

    @property
    def unsent(self) -> bool:
        """Whether the channel was full, so that `send` must be called when it is writable."""
        return bool(self._unsent)

    def add(
        self, who: Who, savers: Iterable[Saver], rows: list[Row], size: int, now: float
    ) -> None:
        """Queue a caller's rows of `size` bytes, and note what its savers wait for."""
        batch = self._open_batch(who, size, now)
        batch.rows += rows
        batch.saves += len(rows)
        for waiter, ids in savers:
            awaited = waiter.awaited
            last = awaited[-1] if awaited else None
            if isinstance(last, Saves) and last.batch is batch:
                last.ids += ids
                continue
            alone = last is None or (isinstance(last, Run) and last.alone)
            run = Saves(waiter, batch, ids, alone=alone)
            batch.runs.append(run)
            awaited.append(run)

    def may_count(self, waiter: Waiter) -> bool:
        """Tell whether a batch that is not sent yet can answer a count on a connection.

        It can if the connection awaits only runs, and the last of them is in that batch.
        """
        last = waiter.awaited[-1]
        return isinstance(last, Run) and last.alone and last.batch.queued

    def add_counts(self, waiter: Waiter, ids: list[Id], scoreboard: Scoreboard) -> None:
        """Add counts of users to the batch of the saves before them; see `may_count`."""
        last = waiter.awaited[-1]
        assert isinstance(last, Run)
        batch = last.batch
        counts = Counts(waiter, batch, ids, scoreboard)
        batch.counts += len(ids)
        batch.runs.append(counts)
        waiter.awaited.append(counts)

    def add_operation(
        self, who: Who, sender: Any, operation: Operation, size: int, now: float
    ) -> None:
        """Queue a caller's operation of `size` bytes; its sender gets the result when known."""
        batch = self._open_batch(who, size, now)
        batch.operations.append(operation)
        batch.senders.append(sender)

    def _open_batch(self, who: Who, size: int, now: float) -> Batch:
        """Return the batch for `size` more bytes of a caller, and count them."""
        queued = self._queued
        if not queued:
            queued.append(Batch(now))
        batch = queued[0]
        if len(queued) > 1 or batch.bytes >= BATCH_BYTES_MAX:
            batch = self._next_batch(who, now)
        batch.bytes += size
        batch.shares[who] = batch.shares.get(who, 0) + size
        self._shares.add(who, size)
        return batch

    def _next_batch(self, who: Who, now: float) -> Batch:
        """Return the first batch that comes after all of a caller, if it may have more of it."""
        queued = self._queued
        after: Batch | None = None
        for batch in reversed(queued):
            if who in batch.shares:
                if batch.bytes < BATCH_BYTES_MAX or batch.shares[who] < _JOINED_BYTES_MAX:
                    return batch
                break
            after = batch
        if after is None:
            after = Batch(now)
            queued.append(after)
        return after

    def take(self) -> list[Batch]:
        """Remove all batches from the queue and return them, for the worker that writes.

        They are in flight until `answered` returns them.
        """
        taken = list(self._queued)
        self._queued.clear()
        self._shares.clear()
        for batch in taken:
            batch.queued = False
        self._in_flight += taken
        return taken

    def answered(self) -> list[Batch]:
        """Return those that were taken and have an outcome, up to the first that has none."""
        answered: list[Batch] = []
        while self._in_flight and self._in_flight[0].outcome is not None:
            answered.append(self._in_flight.popleft())
        return answered

    def give_up(self) -> None:
        """Note that nobody knows what became of those that were taken and have no outcome."""
        for batch in self._in_flight:
            batch.outcome = batch.outcome or UNKNOWN

    def _take_first(self) -> Batch:
        """Remove the batch that is next from the queue."""
        batch = self._queued.popleft()
        batch.queued = False
        for who, size in batch.shares.items():
            self._shares.remove(who, size)
        return batch

    def send(self) -> None:
        """Send as many batches as may be in flight and keep the rest. Called once a turn."""
        if self.newest_id is None:
            return
        while self._queued and len(self._in_flight) < BATCHES_IN_FLIGHT_MAX and not self._unsent:
            batch = self._take_first()
            self._in_flight.append(batch)
            self._unsent = frame((batch.rows, batch.operations, batch.since))
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

        The writer's first frame is the newest id in the database; `send` waits for it. The others
        are an `Answer` each.
        """
        assert self._reader is not None
        answered: list[Batch] = []
        for answer in self._reader.read():
            if isinstance(answer, int):
                self.newest_id = answer
                continue
            batch = self._in_flight.popleft()
            batch.answer(answer)
            answered.append(batch)
        return answered, self._reader.ended

    def expire(self, before: float, outcome: Outcome = TOO_LATE) -> list[Batch]:
        """Give up the batches queued before a time; they were never sent."""
        expired: list[Batch] = []
        while self._queued and self._queued[0].since < before:
            batch = self._take_first()
            batch.outcome = outcome
            expired.append(batch)
        return expired
