"""The writer: the part of worker 1 that has all batches committed. No other process does.

It takes this worker's own batches and those of the other workers, which come over channels, and
gives them to the store together. The store answers them, at once or later, and takes no more until
then; see `workers.storage.store.Committer`.

Knows nothing of the worker's clients and loop, and nothing of how the store commits.
"""

import contextlib
import functools
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from pwserver.ipc import FrameReader, frame
from workers.book.models import Row
from workers.serving.commit_queue import Batch
from workers.storage.operations import STALE, Answer, Operation
from workers.storage.store import Committer

_OWED_S = 0.001
"""How long worker 1 lets another worker go first: more than a batch takes to come back."""


class _Work(NamedTuple):
    """A batch, and what to call with its answer."""

    rows: list[Row]
    operations: list[Operation]
    since: float  # when its first row was queued, in seconds of the monotonic clock
    answer: Callable[[Answer], None]


class Channel:
    """The channel to a worker that does not write."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._reader = FrameReader(self._socket)

    @property
    def ended(self) -> bool:
        """Whether the worker is gone."""
        return self._reader.ended

    def batches(self) -> list[tuple[list[Row], list[Operation], float]]:
        """Return the batches that have arrived, in their order: rows, operations, and since when.

        The monotonic clock is the same for all processes.
        """
        batches = list(self._reader.read())
        while self._reader.more:
            batches += self._reader.read()
        return batches

    def send(self, content: Answer | int) -> None:
        """Send the newest id, or a batch's answer. A worker that is gone is noticed later."""
        try:
            self._socket.send(frame(content))
        except OSError:
            with contextlib.suppress(OSError):  # a worker that cannot be answered is cut off
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Writer:
    """The store's committer, and the channels to the workers that do not write.

    Raises `StorageFailed` after a failed sync.
    """

    def __init__(self, committer: Committer) -> None:
        self.committer = committer
        self._channels: dict[int, Channel] = {}
        self._not_told: list[Channel] = []  # the newest id
        self._received: list[_Work] = []
        self._owed_until = 0.0
        self.changes = 0  # rows and operations of the last `commit`; 0: there was nothing to do

    @property
    def more_to_do(self) -> bool:
        """Whether `rest` should be called again soon, even if there is nothing to commit."""
        return self.committer.more_to_do

    def newest_id(self) -> int | None:
        """Return the greatest id in the book, or 0; None if it is not known yet."""
        return self.committer.newest_id()

    @property
    def takes_work(self) -> bool:
        """Whether `commit` may be called now."""
        return self.committer.takes_work

    def close(self) -> None:
        """Close it all. Raises a `StoreError` if the book must not be closed as usual."""
        for channel in self._channels.values():
            channel.close()
        self.committer.close()

    # --- The other workers. ---

    def add_worker(self, fd: int) -> None:
        """Take the channel to a worker, and tell the worker the newest id, once it is known."""
        channel = self._channels[fd] = Channel(fd)
        self._not_told.append(channel)
        self.tell_newest_id()

    def tell_newest_id(self) -> None:
        """Tell the workers that have not been told what they are waiting for, if it is known."""
        if self._not_told and (newest_id := self.newest_id()) is not None:
            for channel in self._not_told:
                channel.send(newest_id)
            self._not_told.clear()

    def receive(self, fd: int) -> bool:
        """Receive what has arrived on a channel; return whether the worker is still there."""
        channel = self._channels[fd]
        batches = channel.batches()
        if batches:
            answer = functools.partial(self._answer, channel)
            self._received += [_Work(*batch, answer) for batch in batches]
            self._owed_until = 0.0
        if channel.ended:
            del self._channels[fd]
            channel.close()
            return False
        return True

    @property
    def owed_s(self) -> float:
        """For how long, in seconds, this worker should commit nothing of its own; 0 as a rule.

        An operation of another worker was stale, because this worker was faster with the same name.
        It would be again, and again, if the other could not go first once.
        """
        return max(0.0, self._owed_until - time.monotonic()) if self._owed_until else 0.0

    # --- A turn. ---

    def commit(self, own: list[Batch]) -> None:
        """Make what has been received and this worker's own batches durable, and answer them."""
        work: list[_Work | Batch] = [*self._received, *own]
        self._received = []
        self.changes = 0
        for each in work:
            self.changes += len(each.rows) + len(each.operations)
        if work:
            self.committer.commit(work)

    def _answer(self, channel: Channel, answer: Answer) -> None:
        """Answer another worker; if this one was faster with a name, let the other go first."""
        channel.send(answer)
        if isinstance(answer, tuple) and STALE in answer[1]:
            self._owed_until = time.monotonic() + _OWED_S

    def rest(self) -> None:
        """Do what is due after the replies of a turn, so that no client waits for it."""
        self.committer.rest(idle=not self.changes)

    def tick(self) -> None:
        """Have the store look, once a tick, for what no commit has noticed."""
        self.committer.tick(idle=not self.changes)

    def expire(self, before: float, reason: str) -> None:
        """Give up what other workers have sent and was queued before a time; it was not begun."""
        if self._received and self._received[0].since < before:
            late = [each for each in self._received if each.since < before]
            self._received = [each for each in self._received if each.since >= before]
            for each in late:
                each.answer(reason)
