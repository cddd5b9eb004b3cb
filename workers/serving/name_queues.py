"""Operations on one name go to the writer one at a time, in the order in which they came.

An operation is planned from what the book holds when its turn comes: which user has the name, and
which version comes next. So the next operation on the same name waits until the one before it is
committed and can be read. Operations on different names do not wait for each other. If another
worker has changed the same name meanwhile, the writer detects it and changes nothing, and the
operation is planned again.

What waits is bounded, and shared fairly between callers (`shares`). What waits for one name has a
bound of its own: one operation on a name is done with each commit, so a queue that is longer only
waits longer, and its caller's other names would have no room.

An operation that is `recorded_first` goes to the writer only after the audit record says that it
begins. Until then it waits here, for the end of the turn.
"""

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque

from pwserver.errors import DatabaseRefused, Refused, ServerAway, Unavailable
from pwserver.limits import NAME_BYTES_MAX, QUEUE_BYTES_MAX
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Later, Waiter
from workers.serving.commit_queue import TOO_LATE, Batch, CommitQueue, Outcome, queue_full
from workers.serving.shares import Shares
from workers.storage.answers import Pending, Steps, finish
from workers.storage.operations import STALE, Operation, Result

log = logging.getLogger(__name__)

Key = tuple[int, str]  # a book and a name in it

NAME_FULL = Outcome(
    reason="The service is overloaded: too many changes of this user wait to be written."
)
BEGUN = "begun"
"""What the audit record says of an operation before it is done; what became of it comes later."""

UNRECORDED = Outcome(reason="The audit record cannot be written, so this is not done.")


class Write(Later, ABC):
    """A request whose change depends on what is in the book."""

    lasts = True
    recorded_first = False  # not done before the audit record says that it begins

    def __init__(self, waiter: Waiter, key: Key | None, id: Id, size: int, now: float) -> None:
        super().__init__()
        self.waiter = waiter
        self.who = waiter.peer.caller.application
        self.key = key  # None if it need not wait for other operations
        self.id = id
        self.size = size
        self.since = now
        self.begun = False  # the audit record says so, or will at the end of the turn

    @abstractmethod
    def plan(self) -> Steps[Operation]:
        """Read the book and return the operation for the writer; raise a `Refused`."""

    @abstractmethod
    def done(self, result: Result) -> Steps[bytes]:
        """Return the reply after the commit; raise a `Refused`."""

    @abstractmethod
    def failed(self, outcome: Outcome) -> bytes:
        """Return the reply if it was not done, or the outcome is unknown."""

    def answer(self, reply: bytes) -> None:
        """Set the reply. It may have to wait for replies before it, so nothing else is kept."""
        self.reply = reply

    def record(self, outcome: str) -> None:
        """Put the outcome into the audit record, if requests of this kind are recorded."""

    def refused(self, refusal: Refused) -> Steps[bytes]:
        """Return the reply if the request cannot be planned."""
        yield from ()
        if isinstance(refusal, Unavailable):
            return self.failed(Outcome(reason=str(refusal)))
        return messages.refusal(refusal, self.id)


class NameQueues:
    """The unfinished operations of one worker, with a queue for each name."""

    def __init__(self, commit_queue: CommitQueue, save_timeout_s: float) -> None:
        self._commit_queue = commit_queue
        self._save_timeout_s = save_timeout_s
        self._queues: dict[Key, deque[Write]] = {}
        self._bytes: dict[Key, int] = {}  # of each queue
        self._shares = Shares(QUEUE_BYTES_MAX)
        self._unrecorded: list[tuple[Write, Operation, int]] = []  # planned, with their sizes
        self._can_record = True
        self._away: list[Write] = []  # the database server was, when they were to be planned

    @property
    def bytes_queued(self) -> int:
        """How much is unfinished."""
        return self._shares.total

    def add(self, write: Write, now: float) -> None:
        """Queue a request; its `reply` is set later, or at once if there is no room for it."""
        key, who = write.key, write.who
        if self._shares.full(who) or self._commit_queue.full(who):
            write.answer(write.failed(queue_full(who)))
            return
        if key is not None and self._bytes.get(key, 0) >= NAME_BYTES_MAX:
            write.answer(write.failed(NAME_FULL))
            return
        self._shares.add(who, write.size)
        if key is not None:
            queue = self._queues.setdefault(key, deque())
            queue.append(write)
            self._bytes[key] = self._bytes.get(key, 0) + write.size
            if len(queue) > 1:
                return
        self._advance(write, now, [])

    def settle(self, batch: Batch, now: float) -> list[Waiter]:
        """Handle the results of a batch; return the connections that have a reply now."""
        outcome = batch.outcome
        assert outcome is not None
        answered: list[Waiter] = []
        for index, write in enumerate(batch.senders):
            if not outcome.done:
                reply = write.failed(outcome)
                write.record("not done" if outcome.known else "done or not: nobody knows")
                self._go_on_after(write, reply, now, answered)
            elif batch.results[index] is STALE:
                self._advance(write, now, answered)
            else:
                self._when_known(
                    finish(_reply_of(write, batch.results[index])), write, now, answered
                )
        return answered

    def _when_known(
        self, reply: bytes | Pending | None, write: Write, now: float, answered: list[Waiter]
    ) -> None:
        """Answer a request, now or when its reply is known; with None the commit will answer it."""
        if isinstance(reply, Pending):
            reply.then(lambda known: self._on_known(known, write))
        elif reply is not None:
            self._go_on_after(write, reply, now, answered)

    def _on_known(self, known: Pending, write: Write) -> None:
        """Go on with a request whose reading has come later."""
        answered: list[Waiter] = []
        self._when_known(known.value, write, time.monotonic(), answered)
        for waiter in answered:
            waiter.settle()

    def _go_on_after(self, write: Write, reply: bytes, now: float, answered: list[Waiter]) -> None:
        """Answer a request, and begin with the next one on the same name."""
        answered.append(write.waiter)
        self._advance(self._finish(write, reply), now, answered)

    def _advance(self, write: Write | None, now: float, answered: list[Waiter]) -> None:
        """Send a request to the writer; if it is answered at once, continue with the next one."""
        while write is not None:
            reply = finish(self._start(write, now))
            if reply is None or isinstance(reply, Pending):
                self._when_known(reply, write, now, answered)
                return
            answered.append(write.waiter)
            write = self._finish(write, reply)

    def _start(self, write: Write, now: float) -> Steps[bytes | None]:
        """Plan and queue a request; return its reply if it cannot be queued. Raises nothing."""
        if write.since < now - self._save_timeout_s:
            return self._not_begun(write, TOO_LATE)
        if write.recorded_first and not self._can_record:
            return self._not_begun(write, UNRECORDED)
        try:
            operation = yield from write.plan()
        except ServerAway:
            self._away.append(write)  # until `try_again`
            return None
        except Exception as error:
            refusal = refusal_of(error)
            write.record(refusal.message)
            return (yield from _refused(write, refusal))
        size = write.size + sum([len(each) for each in operation if isinstance(each, bytes)])
        if write.recorded_first and not write.begun:
            write.begun = True
            write.record(BEGUN)
            self._unrecorded.append((write, operation, size))
        else:
            self._commit_queue.add_operation(write.who, write, operation, size, now)
        return None

    def try_again(self, now: float, late: Outcome) -> list[Waiter]:
        """Begin again with what could not be planned while the database server was away.

        What has waited for too long gets the outcome `late`. Returns the connections that have a
        reply now.
        """
        away, self._away = self._away, []
        answered: list[Waiter] = []
        for write in away:
            if write.since < now - self._save_timeout_s:
                self._go_on_after(write, self._not_begun(write, late), now, answered)
            else:
                self._advance(write, now, answered)
        return answered

    def _not_begun(self, write: Write, outcome: Outcome) -> bytes:
        if write.begun:  # it was planned again
            write.record("not done")
        return write.failed(outcome)

    def go_on(self, now: float, *, recorded: bool) -> list[Waiter]:
        """Queue the operations whose beginning is recorded now; refuse them if it could not be.

        Returns the connections that have a reply now.
        """
        unrecorded, self._unrecorded = self._unrecorded, []
        answered: list[Waiter] = []
        if recorded:
            for write, operation, size in unrecorded:
                self._commit_queue.add_operation(write.who, write, operation, size, now)
            return answered
        self._can_record = False  # for those that waited behind one of these
        for write, _, _ in unrecorded:
            answered.append(write.waiter)
            self._advance(self._finish(write, write.failed(UNRECORDED)), now, answered)
        self._can_record = True
        return answered

    def _finish(self, write: Write, reply: bytes) -> Write | None:
        """Set a request's reply; return the next request on the same name."""
        write.answer(reply)
        self._shares.remove(write.who, write.size)
        if write.key is None:
            return None
        queue = self._queues[write.key]
        queue.popleft()
        self._bytes[write.key] -= write.size
        if not queue:
            del self._queues[write.key], self._bytes[write.key]
            return None
        return queue[0]


def _reply_of(write: Write, result: Result) -> Steps[bytes]:
    """Return the reply to a request that was done, and record it. Raises nothing."""
    try:
        reply, recorded = (yield from write.done(result)), "ok"
    except Exception as error:
        refusal = refusal_of(error)
        reply, recorded = messages.refusal(refusal, write.id), refusal.message
    write.record(recorded)
    return reply


def _refused(write: Write, refusal: Refused) -> Steps[bytes]:
    """Return the reply to a request that cannot be planned, whatever goes wrong with it."""
    try:
        return (yield from write.refused(refusal))
    except Exception as error:
        return messages.refusal(refusal_of(error), write.id)


def refusal_of(error: Exception) -> Refused:
    """Return the refusal that tells the client of an error in its request.

    An unforeseen error, which tampering with the database may cause, fails only its own request and
    not the worker with all its clients. Its text is not logged, because it may hold a secret.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, DatabaseRefused):
        log.error("%s", error)
        return Unavailable("What is stored of this password was altered; it is not given out.")
    last = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, last.filename, last.lineno)
    return Unavailable("The service failed at this request; its log says where.")
