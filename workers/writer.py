"""The writer process: the only process that writes to the database.

One turn: receive every waiting batch from all workers, commit them as one transaction, publish the
new number of users, and only then answer the workers. Durability depends on this order, and all of
it is in `_commit`.

A batch fails as a whole. The writer never retries it silently, because a sync that failed once may
falsely succeed the next time (https://wiki.postgresql.org/wiki/Fsync_Errors). After a failed sync
the service ends.
"""

import contextlib
import errno
import logging
import select
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import apsw

from pwserver.errors import PwserverError, StorageFailed
from pwserver.ipc import FrameReader, Scoreboard, frame, receive_control, send_control
from pwserver.limits import BATCH_AWAITED_S, CHECKPOINT_PAGES, TICK_S
from workers.book.models import Row
from workers.process import CHANNEL, STOP, become_child, say_ready
from workers.storage.database import Store
from workers.storage.disk_space import why_no_room
from workers.storage.outage import (
    CANNOT_BE_OPENED,
    DISK_ERROR,
    DISK_FULL,
    LOCKED,
    QUOTA_EXCEEDED,
    READ_ONLY,
    Outage,
)
from workers.storage.validation import CheckValues
from workers.storage.writing import KeyRetired, Operation, Result
from workers.waiting import Events, Lookout

FATAL = b"F"  # to the listener: end the service; an exit code (one byte) and the reason follow

_REASON_BYTES_MAX = 2000

_REASONS: dict[type[Exception], str] = {
    apsw.ConstraintError: "The clock went back and an id was taken; send it again.",
    KeyRetired: "The key that it was sealed with has been retired; send it again.",
}
"""Why one batch was not saved although others can be."""

NUMBER = 0
"""The writer's index on the scoreboard."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriterStart:
    """What the writer is started with. The writer never has a key, only check values."""

    path: Path
    keys: CheckValues
    requests_kept_ms: int


Batch = tuple[list[Row], list[Operation]]


@dataclass(eq=False)
class Worker:
    """The channel to a worker."""

    channel: socket.socket
    reader: FrameReader


def main(control: socket.socket, scoreboard: Scoreboard, start: WriterStart) -> None:
    """Run the writer until the listener says to stop or has died."""
    become_child("writer")
    try:
        Writer(control, scoreboard, start).run()
    except PwserverError as error:
        text = FATAL + bytes([error.exit_code]) + str(error).encode()[:_REASON_BYTES_MAX]
        with contextlib.suppress(OSError):  # the listener may be dead
            send_control(control, text)
        sys.exit(error.exit_code)


class Writer:
    """The database connection and the loop that writes to it."""

    def __init__(self, control: socket.socket, scoreboard: Scoreboard, start: WriterStart) -> None:
        self._control = control
        self._scoreboard = scoreboard
        self._start = start
        self._outage = Outage(scoreboard)
        self._store = self._open(start.keys)
        self._workers: dict[int, Worker] = {}
        self._checkpoint_at = CHECKPOINT_PAGES
        self._stopping = False
        self._epoll = select.epoll()
        self._lookout = Lookout(self._epoll, BATCH_AWAITED_S)
        self._epoll.register(control, select.EPOLLIN)
        say_ready(control)

    def _open(self, keys: CheckValues) -> Store:
        """Open the database and tell the readers on the scoreboard."""
        store = Store(self._start.path, keys, self._start.requests_kept_ms)
        try:
            store.begin_log()
        except apsw.Error as error:
            log.warning("the write-ahead log cannot be started: %s", _reason(error))
        store.count_users()
        self._scoreboard.users = store.users
        self._scoreboard.opened()
        return store

    def run(self) -> None:
        """Commit the workers' batches until told to stop."""
        events: Events = []
        more_to_do = False
        while not self._stopping:
            events = events or self._epoll.poll(0 if more_to_do else TICK_S)
            self._scoreboard.beat(NUMBER)
            batches = self._receive(events)
            if batches:
                self._commit(batches)
            elif self._outage.lasts:
                self._try_to_write()
            more_to_do = not batches and not self._files_changed() and self._empty_books()
            self._checkpoint()
            events = self._lookout.look() if batches else []
        self._store.close()

    def _receive(self, events: list[tuple[int, int]]) -> list[tuple[Worker, Batch]]:
        """Return every batch that has arrived, keeping the order within each worker."""
        batches: list[tuple[Worker, Batch]] = []
        for fd, _ in events:
            worker = self._workers.get(fd)
            if worker is None:
                self._on_control()
                continue
            batches += [(worker, batch) for batch in worker.reader.read()]
            if worker.reader.ended:
                self._forget(worker)
        return batches

    def _commit(self, batches: list[tuple[Worker, Batch]]) -> None:
        """Make batches durable, then answer their workers."""
        rows = [row for _, (batch, _) in batches for row in batch]
        operations = [operation for _, (_, batch) in batches for operation in batch]
        try:
            results = self._store.commit(rows, operations)
            while not self._store.files.undisturbed() and self._files_changed():
                # The commit went into a removed file: write it again to the new one.
                results = self._store.commit(rows, operations)
        except (apsw.ConstraintError, KeyRetired) as error:
            if len(batches) == 1:
                self._answer(batches, _REASONS[type(error)])
            else:
                for batch in batches:
                    self._commit([batch])
            return
        except apsw.Error as error:
            reason = _reason(error, self._store.connection.system_errno)
            self._answer(batches, reason)
            self._outage.refused(len(rows) + len(operations), reason)
            return
        self._scoreboard.users = self._store.users
        self._answer(batches, results)
        self._outage.written()

    def _try_to_write(self) -> None:
        """Test whether an outage is over, even if no client is saving now.

        The empty commit may fit into a log that refused changes have extended, where a save does
        not fit. So the room on the disk is tested too.
        """
        try:
            self._store.commit([], [])
        except apsw.Error as error:
            log.debug("still nothing can be written: %s", _reason(error))
            return
        self._scoreboard.users = self._store.users  # the commit may have deleted some
        if reason := why_no_room(self._start.path.parent):
            log.debug("still there is no room for more: %s", reason)
            return
        self._outage.written()

    def _answer(self, batches: list[tuple[Worker, Batch]], outcome: str | list[Result]) -> None:
        """Answer batches with their operations' results, or with the reason for the failure."""
        at = 0
        for worker, (_, operations) in batches:
            answer = outcome
            if not isinstance(outcome, str):
                answer = outcome[at : at + len(operations)]
                at += len(operations)
            try:
                worker.channel.send(frame(answer))
            except OSError:  # the worker has died, and its connections with it
                self._forget(worker)

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
        others = {key: value for key, value in self._start.keys.items() if key not in in_use}
        keys = others | in_use
        if not self._store.close_after_removal():
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
        """Copy a long log to the database. Called after the replies, so no client waits for it."""
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

    # --- The listener. ---

    def _on_control(self) -> None:
        while (message := receive_control(self._control)) is not None:
            text, descriptors = message
            if text == CHANNEL and descriptors:
                self._add_worker(descriptors[0])
            elif text == STOP or not text:
                self._stopping = True
                return

    def _add_worker(self, fd: int) -> None:
        channel = socket.socket(fileno=fd)
        channel.setblocking(False)
        self._workers[fd] = Worker(channel, FrameReader(channel))
        self._epoll.register(fd, select.EPOLLIN)
        try:
            channel.send(frame(self._store.newest_id()))
        except OSError:
            self._forget(self._workers[fd])

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.channel.fileno(), None)
        worker.channel.close()


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
