"""The writer process: the only one that writes to the database.

One turn: take every batch that is waiting, from all workers; commit them as one transaction; make
the new number of users known; then, and only then, answer the workers. Everything that durability
rests on is in `_commit`, in that order.

A batch fails as a whole and is never tried again behind the clients' backs, because a sync that
failed once may falsely succeed the next time (https://wiki.postgresql.org/wiki/Fsync_Errors): after
a failed sync the service ends.
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

FATAL = b"F"  # to the listener: an exit code (one byte) and the reason follow; end the service

_REASON_BYTES_MAX = 2000

_REASONS: dict[type[Exception], str] = {
    apsw.ConstraintError: "The clock went back and an id was taken; send it again.",
    KeyRetired: "The key that it was sealed with has been retired; send it again.",
}
"""Why a single batch was not saved, where the others can be."""

NUMBER = 0
"""The writer's place on the scoreboard."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriterStart:
    """What the writer is started with. It never has a key itself."""

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
    """Run the writer until the listener says to stop, or is gone."""
    become_child("writer")
    try:
        Writer(control, scoreboard, start).run()
    except PwserverError as error:
        text = FATAL + bytes([error.exit_code]) + str(error).encode()[:_REASON_BYTES_MAX]
        with contextlib.suppress(OSError):  # without a listener there is nobody to tell
            send_control(control, text)
        sys.exit(error.exit_code)


class Writer:
    """The connection to the database and the loop that writes to it."""

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
        """Open the database, and let the readers know."""
        store = Store(self._start.path, keys, self._start.requests_kept_ms)
        try:
            store.begin_log()
        except apsw.Error as error:
            log.warning("the log cannot be begun: %s", _reason(error))
        store.count_users()
        self._scoreboard.users = store.users
        self._scoreboard.opened()
        return store

    def run(self) -> None:
        """Commit what comes until told to stop."""
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
        """Return every batch that has arrived, in the order of each worker."""
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
        """Make batches durable, then answer them."""
        rows = [row for _, (batch, _) in batches for row in batch]
        operations = [operation for _, (_, batch) in batches for operation in batch]
        try:
            results = self._store.commit(rows, operations)
            while not self._store.files.undisturbed() and self._files_changed():
                # What went into a removed file is written once more.
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
        """Find out whether an outage is over, though nobody may save anything now.

        What is written for that has room in a log that refused changes made longer; saves may not.
        """
        try:
            self._store.commit([], [])
        except apsw.Error as error:
            log.debug("still nothing can be written: %s", _reason(error))
            return
        self._scoreboard.users = self._store.users  # some of a removed book may be gone
        if reason := why_no_room(self._start.path.parent):
            log.debug("still there is no room for more: %s", reason)
            return
        self._outage.written()

    def _answer(self, batches: list[tuple[Worker, Batch]], outcome: str | list[Result]) -> None:
        """Tell workers what became of their batches: the operations' results, or why not."""
        at = 0
        for worker, (_, operations) in batches:
            answer = outcome
            if not isinstance(outcome, str):
                answer = outcome[at : at + len(operations)]
                at += len(operations)
            try:
                worker.channel.send(frame(answer))
            except OSError:  # the worker died, and its clients with it
                self._forget(worker)

    def _files_changed(self) -> bool:
        """Make the book again if it was removed; return whether commits since then are lost.

        A log that alone was removed loses nothing: this connection still has it open and copies it
        to the database before it closes, now or, where a reader is in the way, a little later.
        """
        files = self._store.files
        removed = files.database_removed
        if not removed and not files.log_removed:
            return False
        in_use = self._store.keys()  # the one that seals is the last of them, and is to stay so
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

        This is for when nothing else is to be done; else they go with what is committed. Where it
        fails, as on a full disk, it is tried again at the next tick.
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
        """Copy the log to the database when it is long enough; nobody waits for a reply now."""
        if self._store.log_pages < self._checkpoint_at:
            return
        try:
            complete = self._store.checkpoint()
        except apsw.BusyError:
            complete = False
        except apsw.Error as error:
            log.warning("the log cannot be copied to the database: %s", _reason(error))
            complete = False
        # Where a reader is in the way the log grows on, and is tried again a little later.
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
    """Return why a batch was certainly not saved; raise `StorageFailed` where nobody can tell."""
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
