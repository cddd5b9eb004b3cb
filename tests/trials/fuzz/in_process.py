"""The worker that writes in this process, without its loop: bytes in, commits, bytes out.

Everything that a request meets is the service's own: connections on sockets, what came alone taken
together, the writer and its database in a file, the audit record, the checker's judgement. Only who
calls them when is here, and the clock, which stands unless it is told to go on: so the same input
does the same each time. Between inputs the book is emptied.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from select import EPOLLIN

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECKPOINT_PAGES
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS
from workers.audit.record import AuditLog
from workers.auth.applications import Registry, sealed, token_hash
from workers.auth.throttle import DELAY_S_MAX, GuessTable, Throttle
from workers.book.keyring import Keyring, MasterKey
from workers.book.models import COMMON_BOOK, Application, ApplicationRow, IdClock, UserRow
from workers.book.rows import open_version
from workers.book.vault import Vault
from workers.checker import Questions
from workers.serving.awaited import Waiter
from workers.serving.checks import Checks
from workers.serving.commit_queue import CommitQueue
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.serving.intake import Intake
from workers.serving.name_queues import NameQueues
from workers.storage.sqlite.committing import SqliteCommitter
from workers.storage.sqlite.reading import BookReader
from workers.writer import Writer

NOW_MS = 1_770_000_000_000  # early in 2026
NOW_S = 1e9
"""Of the monotonic clock: after any real time, so that the checker finds no question too late."""

REQUESTS_KEPT_MS = 86_400_000
AUDIT_BYTES_MAX = 4 * 1024 * 1024
TOKENS = {"owner": "pwserver_" + "A1" * 21 + "A", "shop": "pwserver_" + "B2" * 21 + "B"}
"""Who may do everything: one in the common book, one in a book of its own."""

SETTINGS = Settings(message_bytes_max=512, in_flight_max=8, versions_kept=2)
"""Limits that an input of two kilobytes passes."""

_KEYRING = Keyring({1: MasterKey(1, Secret(b"k" * 32))}, Secret(b"i" * 32))
_TURNS_MAX = 10_000


def register() -> None:
    """Register the applications in the database that was opened last."""
    key = _KEYRING.for_purpose("application")
    for number, (name, token) in enumerate(TOKENS.items(), start=1):
        book = COMMON_BOOK if number == 1 else number
        hashed = token_hash(token)
        may = " ".join(RIGHTS)
        row = ApplicationRow(number, name, book, may, NOW_MS, hashed, revision=number)
        Application.insert(sealed(row, key)._asdict()).execute()


class Service:
    """A book in a folder that nobody else uses, and who serves it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "user_data.db"
        self._record, self._head = folder / "audit.log", folder / "audit-head"
        self.scoreboard = Scoreboard(1)
        keys = _KEYRING.check_values
        committer = SqliteCommitter(self._path, keys, REQUESTS_KEPT_MS, self.scoreboard)
        self._writer = Writer(committer)
        self.store = committer.store
        register()
        self._guesses = GuessTable(1)
        reader = BookReader(self.scoreboard, committer.connect)
        self.commit_queue = CommitQueue()
        self.context = Context(
            vault=Vault(_KEYRING),
            key_path=folder / "user_data.key",
            ids=IdClock(1),
            commit_queue=self.commit_queue,
            name_queues=NameQueues(self.commit_queue, SETTINGS.save_timeout_s),
            reader=reader,
            registry=Registry(reader, _KEYRING, folder / "revisions"),
            audit=self._audit_log(),
            throttle=Throttle(self._guesses, 1),
            checks=Checks(SETTINGS.save_timeout_s),
            scoreboard=self.scoreboard,
            bell=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
            parts={},
            versions_kept=SETTINGS.versions_kept,
        )
        self._intake = Intake(self.context, SETTINGS)
        self._connections: list[Connection] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._checker = theirs.fileno()
        self._questions = Questions()
        self._questions.add_worker(theirs)
        self.context.checks.attach(ours)
        self.begin_anew()
        self._settle_all()

    def _audit_log(self) -> AuditLog:
        return AuditLog(self._record, self._head, _KEYRING.for_purpose("audit"))

    def close(self) -> None:
        """Close everything."""
        self.context.checks.detach()
        self._questions.receive(self._checker)  # closes its end, because this one is closed
        self.context.bell.close()
        self._writer.close()

    def begin_anew(self) -> None:
        """Empty the book, forget who guessed wrong, and set the clock back."""
        self.store.connection.execute("BEGIN; DELETE FROM user; DELETE FROM request; COMMIT")
        if self.store.log_pages > CHECKPOINT_PAGES:
            self.store.checkpoint()
        self.store.users = self.scoreboard.users = 0
        self.scoreboard.listing_wanted = False
        numbers = self._guesses.array.numbers
        numbers.cast("B")[:] = bytes(numbers.nbytes)
        self._connections.clear()
        context = self.context
        context.ids = IdClock(1)
        context.ids.advance(NOW_MS * 1_000_000)  # and no more, so that inputs can know the ids
        context.now, context.now_ms = NOW_S, NOW_MS
        with contextlib.suppress(FileNotFoundError):
            if self._record.stat().st_size > AUDIT_BYTES_MAX:
                self._record.unlink()
                self._head.unlink()
                context.audit = self._audit_log()

    def connect(self) -> tuple[socket.socket, Connection]:
        """Return a client's end of a new connection, and the service's."""
        client, served = socket.socketpair()
        for end in (client, served):
            end.setblocking(False)
        connection = Connection(Accepted(served, ""), self.context, SETTINGS, set())
        self._connections.append(connection)
        return client, connection

    # --- What a worker's loop does. ---

    def receive(self) -> None:
        """Take what clients have sent, do it, and reply as far as nothing waits for the writer."""
        self._tick(0.01)
        for connection in self._receiving():
            self._intake.add(connection)
        self._intake.do_lines()
        while self._intake.waiting:
            self._intake.do_rest()
        self._reply()

    def settle(self) -> None:
        """Go on until everything that clients have sent is answered."""
        for _ in range(_TURNS_MAX):
            self.receive()
            self._settle_all()
            if not any(each.unanswered for each in self._connections) and not self._unread():
                return
        raise AssertionError("requests are never answered")

    def _unread(self) -> bool:
        """Tell whether something is there to be received."""
        served = [each.fd for each in self._receiving()]
        return bool(select.select(served, [], [], 0)[0])

    def _receiving(self) -> list[Connection]:
        """Return the connections that want to receive."""
        return [each for each in self._connections if not each.closed and each.wants & EPOLLIN]

    def _settle_all(self) -> None:
        """Have the writer, the checker and the clock answer whatever waits for them."""
        context = self.context
        self._writer.commit(self.commit_queue.take())
        for batch in self.commit_queue.answered():
            assert batch.outcome is not None
            for run in batch.runs:
                run.settle(batch.outcome)
            batch.runs.clear()
            self._wake(context.name_queues.settle(batch, context.now))
        self._questions.receive(self._checker)
        while self._questions.waiting:
            self._questions.answer_one()
        self._wake(context.checks.receive()[0])
        if self.commit_queue.empty:
            self._tick(DELAY_S_MAX)
            self._wake(context.delays.expire(context.now))
        self._reply()

    def _tick(self, seconds: float) -> None:
        context = self.context
        context.now += seconds
        context.now_ms += int(seconds * 1000)

    def _wake(self, waiters: Sequence[Waiter]) -> None:
        for waiter in waiters:
            waiter.settle()

    def _reply(self) -> None:
        assert self.context.write_record(), "the audit record cannot be written"
        for connection in self._connections:
            if not connection.closed:
                connection.flush()
                if connection.more_to_do:
                    self._intake.go_on(connection)

    # --- What is left when everything is answered. ---

    def users(self) -> Iterator[UserRow]:
        """Yield every row of the book."""
        columns = ", ".join(UserRow._fields)
        for row in self.store.connection.execute(f"SELECT {columns} FROM user"):
            yield UserRow(*row)

    def opens(self, user: UserRow) -> bool:
        """Tell whether what is kept of a user can be opened; raise where it was altered."""
        return open_version(self.context.vault, user, user.version) is not None

    def recorded(self) -> int:
        """Return how long the audit record is."""
        return self._record.stat().st_size if self._record.exists() else 0

    def record_since(self, size: int) -> str:
        """Return what was written into the audit record since it had a size."""
        with open(self._record, "rb") as record:
            record.seek(size)
            return record.read().decode()
