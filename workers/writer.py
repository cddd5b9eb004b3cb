"""The writer: the part of worker 1 that writes to the database. No other process does.

A commit makes the batches of all workers, its own among them, durable as one transaction, publishes
the new number of users, and only then answers them. Durability depends on this order, and all of it
is in `_commit`. Everything else that takes time, such as a checkpoint, is done in `rest`, after the
worker has sent its replies.

A batch fails as a whole. The writer never retries it silently, because a sync that failed once may
falsely succeed the next time (https://wiki.postgresql.org/wiki/Fsync_Errors). After a failed sync
the service ends.

Knows nothing of the worker's clients and loop.
"""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw

from pwserver.errors import StorageFailed
from pwserver.ipc import FrameReader, Scoreboard, frame
from pwserver.limits import CHECKPOINT_PAGES
from pwserver.tally import Tally
from workers.book.models import Row
from workers.serving.commit_queue import Answer, Batch
from workers.storage.database import Store
from workers.storage.disk_space import is_below, why_no_room
from workers.storage.outage import (
    CANNOT_BE_OPENED,
    DISK_ERROR,
    DISK_FULL,
    DISK_LOW,
    LOCKED,
    QUOTA_EXCEEDED,
    READ_ONLY,
    Outage,
)
from workers.storage.validation import CheckValues
from workers.storage.writing import STALE, KeyRetired, Operation

_REASONS: dict[type[Exception], str] = {
    apsw.ConstraintError: "The clock went back and an id was taken; send it again.",
    KeyRetired: "The key that it was sealed with has been retired; send it again.",
}
"""Why one batch was not saved although others can be."""

_COMMIT_US_MAX = 10_000
"""The longest time of a commit that counts, so that one stall is soon forgotten."""

_COMMIT_WEIGHT = 8
"""A commit's time changes the published one by an eighth of the difference."""

log = logging.getLogger(__name__)

_OWED_S = 0.001
"""How long worker 1 lets another worker go first: more than a batch takes to come back."""


class _Work(NamedTuple):
    """A batch, and what to call with its answer."""

    rows: list[Row]
    operations: list[Operation]
    answer: Callable[[Answer], None]
    is_own: bool


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

    def batches(self) -> list[tuple[list[Row], list[Operation]]]:
        """Return the batches that have arrived, in their order."""
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
    """The connection that writes, and the channels to the workers that do not.

    Raises a `StoreError` if the database must not be written to, and `StorageFailed` after a failed
    sync.
    """

    def __init__(
        self,
        path: Path,
        keys: CheckValues,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        reserve_bytes: int = 0,
    ) -> None:
        self._path = path
        self._keys = keys
        self._requests_kept_ms = requests_kept_ms
        self._reserve_bytes = reserve_bytes  # of the disk, which saves leave free
        self._scoreboard = scoreboard
        self._outage = Outage(scoreboard)
        self._store = self._open(keys)
        self._channels: dict[int, Channel] = {}
        self._received: list[_Work] = []
        self._checkpoint_at = CHECKPOINT_PAGES
        self._more_to_empty = False
        self._owed_until = 0.0
        self.tally = Tally()
        self.changes = 0  # rows and operations of the last `commit`; 0: there was nothing to do

    def _open(self, keys: CheckValues) -> Store:
        """Open the database and tell the readers on the scoreboard."""
        store = Store(self._path, keys, self._requests_kept_ms)
        try:
            store.begin_log()
        except apsw.Error as error:
            log.warning("the write-ahead log cannot be started: %s", _reason(error))
        store.count_users()
        self._scoreboard.users = store.users
        self._scoreboard.commit_since_us = 0
        self._scoreboard.opened()
        return store

    def connect(self) -> apsw.Connection:
        """Return the connection, which may be read from between two commits.

        The scoreboard's `openings` tell when it is another one.
        """
        return self._store.connection

    def newest_id(self) -> int:
        """Return the greatest id in the database, or 0."""
        return self._store.newest_id()

    @property
    def more_to_do(self) -> bool:
        """Whether `rest` should be called again soon, even if there is nothing to commit."""
        return self._more_to_empty

    def close(self) -> None:
        """Close it all. Raises `DatabaseRefused` if another database was copied over this one."""
        for channel in self._channels.values():
            channel.close()
        self._store.close()

    # --- The other workers. ---

    def add_worker(self, fd: int) -> None:
        """Take the channel to a worker, and tell the worker the newest id."""
        channel = self._channels[fd] = Channel(fd)
        channel.send(self.newest_id())

    def receive(self, fd: int) -> bool:
        """Receive what has arrived on a channel; return whether the worker is still there."""
        channel = self._channels[fd]
        batches = channel.batches()
        if batches:
            self._received += [_Work(*batch, channel.send, is_own=False) for batch in batches]
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
        work, self._received = self._received, []
        work += [_Work(batch.rows, batch.operations, batch.answer, is_own=True) for batch in own]
        self.changes = 0
        if work:
            self._commit(work)

    def _commit(self, work: list[_Work]) -> None:
        rows = [row for each in work for row in each.rows]
        operations = [operation for each in work for operation in each.operations]
        self.changes = len(rows) + len(operations)
        began_us = self._scoreboard.commit_since_us = time.monotonic_ns() // 1000
        try:
            users = self._store.users
            results = self._store.commit(rows, operations)
            while not self._store.files.undisturbed() and self._files_changed():
                # The commit went into a removed file: write it again to the new one.
                users = self._store.users
                results = self._store.commit(rows, operations)
        except (apsw.ConstraintError, KeyRetired) as error:
            if len(work) == 1:
                work[0].answer(_REASONS[type(error)])
            else:
                for each in work:
                    self._commit([each])
            return
        except apsw.Error as error:
            reason = _reason(error, self._store.connection.system_errno)
            for each in work:
                each.answer(reason)
            self._outage.refused(self.changes, reason)
            self.tally.failed_commit()
            return
        finally:
            took_us = self._note_time(began_us)
        self._scoreboard.users = self._store.users
        self._scoreboard.committed_ms = (began_us + took_us) // 1000
        self.tally.commit(self.changes, took_us)
        at = 0
        for each in work:
            its_results = results[at : at + len(each.operations)]
            each.answer((users, its_results))
            users += len(each.rows)
            at += len(each.operations)
            if STALE in its_results and not each.is_own:
                self._owed_until = time.monotonic() + _OWED_S
        self._outage.written()

    def _note_time(self, began_us: int) -> int:
        """Publish how long commits take, for the choice of a new connection's worker; return it."""
        scoreboard = self._scoreboard
        scoreboard.commit_since_us = 0
        took_us = time.monotonic_ns() // 1000 - began_us
        counts_us = min(took_us, _COMMIT_US_MAX)
        scoreboard.commit_us += (counts_us - scoreboard.commit_us) // _COMMIT_WEIGHT
        return took_us

    def rest(self) -> None:
        """Do what is due after the replies of a turn, so that no client waits for it."""
        self._checkpoint()
        if self._more_to_empty and not self.changes:
            self._more_to_empty = self._empty_books()

    def tick(self) -> None:
        """Look, once a tick, for what no commit has noticed: the disk's room, removed files."""
        self._look_for_room()
        wanted = self._outage.lasts or self._scoreboard.probe_wanted
        if wanted and not self.changes:
            self._try_to_write()
        self._more_to_empty = not self._files_changed() and self._empty_books()

    def _look_for_room(self) -> None:
        """Tell the workers, which refuse saves, whether the disk has too little room left."""
        folder, reserve_bytes = self._path.parent, self._reserve_bytes
        self._scoreboard.disk_low_for_guests = is_below(folder, 2 * reserve_bytes)
        self._scoreboard.disk_low = low = is_below(folder, reserve_bytes)
        if low:
            self._outage.refused(0, DISK_LOW)

    def _try_to_write(self) -> None:
        """Test whether changes can be written, even if no client is saving now.

        The empty commit may fit into a log that refused changes have extended, where a save does
        not fit. So the room on the disk is tested too.
        """
        try:
            self._store.commit([], [])
        except apsw.Error as error:
            log.debug("still nothing can be written: %s", _reason(error))
            return
        self._scoreboard.users = self._store.users  # the commit may have deleted some
        if reason := why_no_room(self._path.parent):
            log.debug("still there is no room for more: %s", reason)
            return
        self._scoreboard.committed_ms = time.monotonic_ns() // 1_000_000
        self._scoreboard.probe_wanted = False
        self._outage.written()

    def _files_changed(self) -> bool:
        """Reopen the book if a file of it was removed; return whether commits were lost.

        If only the log was removed, nothing is lost: this connection still has it open and copies
        it to the database before it closes. If a reader is in the way, that happens a little later.
        """
        files = self._store.files
        removed = files.database_removed
        if not removed and not files.log_removed:
            return False
        in_use = self._store.keys()  # the sealing key is the last one and must stay the last
        others = {key: value for key, value in self._keys.items() if key not in in_use}
        keys = others | in_use
        try:
            if not self._store.close_after_removal():
                return False
        except apsw.Error as error:
            log.warning("the removed log cannot be copied to the database: %s", _reason(error))
            return False
        if removed:
            log.warning("the database was removed or replaced; what is at its path is used now")
        self._store = self._open(keys)
        return removed

    def _empty_books(self) -> bool:
        """Delete some users of removed applications; return whether there may be more.

        Called when there is nothing to commit; every commit deletes some of them too. After a
        failure, such as a full disk, it is tried again at the next tick.
        """
        try:
            if not self._store.to_be_emptied():
                return False
            self._store.commit([], [])
        except apsw.Error as error:
            log.debug("removed applications' users cannot be deleted now: %s", _reason(error))
            return False
        self._scoreboard.users = self._store.users
        return True

    def _checkpoint(self) -> None:
        """Copy a long log to the database."""
        if self._store.log_pages < self._checkpoint_at:
            return
        try:
            complete = self._store.checkpoint()
        except apsw.BusyError:
            complete = False
        except apsw.Error as error:
            log.warning("the log cannot be copied to the database: %s", _reason(error))
            complete = False
        # If a reader is in the way, the log keeps growing; try again `CHECKPOINT_PAGES` later.
        pages = 0 if complete else self._store.log_pages
        self._checkpoint_at = pages + CHECKPOINT_PAGES
        if complete:
            self._store.log_pages = 0


def _reason(error: apsw.Error, system_errno: int = 0) -> str:
    """Return why a batch was certainly not saved; raise `StorageFailed` if it is uncertain."""
    if isinstance(error, apsw.FullError):
        return DISK_FULL
    if isinstance(error, apsw.ReadOnlyError):
        return READ_ONLY
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return LOCKED
    if isinstance(error, apsw.CantOpenError):
        return CANNOT_BE_OPENED
    extended = getattr(error, "extendedresult", 0)
    if isinstance(error, apsw.IOError) and extended == apsw.SQLITE_IOERR_WRITE:
        return QUOTA_EXCEEDED if system_errno == errno.EDQUOT else DISK_ERROR
    raise StorageFailed(
        f"the disk failed while the database was written to ({error}). The service ends, because "
        "nothing written from now on could be trusted. What was acknowledged is safe: see to the "
        "disk, then start again."
    ) from error
