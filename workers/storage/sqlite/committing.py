"""Commits to SQLite's file: the interface's `Committer`, with what is due around a commit.

A commit makes the batches of all workers durable as one transaction, publishes the new number of
users, and only then answers them. Durability depends on this order, and all of it is in `commit`.
Everything else that takes time, such as a checkpoint, is done in `rest`, after the worker has sent
its replies.

A batch fails as a whole. It is never retried silently, because a sync that failed once may falsely
succeed the next time (https://wiki.postgresql.org/wiki/Fsync_Errors). After a failed sync the
service ends.

Knows nothing of workers and channels.
"""

import errno
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import apsw

from pwserver.errors import StorageFailed
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECKPOINT_PAGES
from pwserver.tally import Tally
from workers.storage.disk_space import is_below, why_no_room
from workers.storage.operations import CheckValues, KeyRetired
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
from workers.storage.sqlite.database import Store
from workers.storage.store import Work

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


class SqliteCommitter:
    """The connection that writes to a file.

    Raises a `StoreError` if the database must not be written to.
    """

    links = ()
    takes_work = True

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
        self._checkpoint_at = CHECKPOINT_PAGES
        self.tally = Tally()
        self.more_to_do = False  # users of removed books may be left
        self.store = self._open(keys)

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
        return self.store.connection

    def newest_id(self) -> int:
        """Return the greatest id in the database, or 0."""
        return self.store.newest_id()

    def know_keys(self, keys: Sequence[int]) -> None:
        """Do nothing: there is one host."""

    def close(self) -> None:
        """Close it. Raises `DatabaseRefused` if another database was copied over this one."""
        self.store.close()

    def commit(self, work: Sequence[Work]) -> None:
        """Make all work durable as one transaction, and answer each.

        If a part of it cannot be done, such as a row with an id that was taken, each is committed
        alone. Raises `StorageFailed` after a failed sync.
        """
        rows = [row for each in work for row in each.rows]
        operations = [operation for each in work for operation in each.operations]
        changes = len(rows) + len(operations)
        began_us = self._scoreboard.commit_since_us = time.monotonic_ns() // 1000
        try:
            users = self.store.users
            results = self.store.commit(rows, operations)
            while not self.store.files.undisturbed() and self._files_changed():
                # The commit went into a removed file: write it again to the new one.
                users = self.store.users
                results = self.store.commit(rows, operations)
        except (apsw.ConstraintError, KeyRetired) as error:
            if len(work) == 1:
                work[0].answer(_REASONS[type(error)])
            else:
                for each in work:
                    self.commit([each])
            return
        except apsw.Error as error:
            reason = _reason(error, self.store.connection.system_errno)
            for each in work:
                each.answer(reason)
            self._outage.refused(changes, reason)
            self.tally.failed_commit()
            return
        finally:
            took_us = self._note_time(began_us)
        self._scoreboard.users = self.store.users
        self._scoreboard.committed_ms = (began_us + took_us) // 1000
        self.tally.commit(changes, took_us)
        at = 0
        for each in work:
            its_results = results[at : at + len(each.operations)]
            each.answer((users, its_results))
            users += len(each.rows)
            at += len(each.operations)
        self._outage.written()

    def _note_time(self, began_us: int) -> int:
        """Publish how long commits take, for the choice of a new connection's worker; return it."""
        scoreboard = self._scoreboard
        scoreboard.commit_since_us = 0
        took_us = time.monotonic_ns() // 1000 - began_us
        counts_us = min(took_us, _COMMIT_US_MAX)
        scoreboard.commit_us += (counts_us - scoreboard.commit_us) // _COMMIT_WEIGHT
        return took_us

    def rest(self, *, idle: bool) -> None:
        """Do what is due after the replies of a turn, so that no client waits for it."""
        self._checkpoint()
        if self.more_to_do and idle:
            self.more_to_do = self._empty_books()

    def tick(self, *, idle: bool) -> None:
        """Look, once a tick, for what no commit has noticed: the disk's room, removed files."""
        self._look_for_room()
        wanted = self._outage.lasts or self._scoreboard.probe_wanted
        if wanted and idle:
            self._try_to_write()
        self.more_to_do = not self._files_changed() and self._empty_books()

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
            self.store.commit([], [])
        except apsw.Error as error:
            log.debug("still nothing can be written: %s", _reason(error))
            return
        self._scoreboard.users = self.store.users  # the commit may have deleted some
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
        files = self.store.files
        removed = files.database_removed
        if not removed and not files.log_removed:
            return False
        in_use = self.store.keys()  # the sealing key is the last one and must stay the last
        others = {key: value for key, value in self._keys.items() if key not in in_use}
        keys = others | in_use
        try:
            if not self.store.close_after_removal():
                return False
        except apsw.Error as error:
            log.warning("the removed log cannot be copied to the database: %s", _reason(error))
            return False
        if removed:
            log.warning("the database was removed or replaced; what is at its path is used now")
        self.store = self._open(keys)
        return removed

    def _empty_books(self) -> bool:
        """Delete some users of removed applications; return whether there may be more.

        Called when there is nothing to commit; every commit deletes some of them too. After a
        failure, such as a full disk, it is tried again at the next tick.
        """
        try:
            if not self.store.to_be_emptied():
                return False
            self.store.commit([], [])
        except apsw.Error as error:
            log.debug("removed applications' users cannot be deleted now: %s", _reason(error))
            return False
        self._scoreboard.users = self.store.users
        return True

    def _checkpoint(self) -> None:
        """Copy a long log to the database."""
        if self.store.log_pages < self._checkpoint_at:
            return
        try:
            complete = self.store.checkpoint()
        except apsw.BusyError:
            complete = False
        except apsw.Error as error:
            log.warning("the log cannot be copied to the database: %s", _reason(error))
            complete = False
        # If a reader is in the way, the log keeps growing; try again `CHECKPOINT_PAGES` later.
        pages = 0 if complete else self.store.log_pages
        self._checkpoint_at = pages + CHECKPOINT_PAGES
        if complete:
            self.store.log_pages = 0


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
