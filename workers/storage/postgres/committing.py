"""Commits to PostgreSQL: exactly once, also across lost connections and failovers.

One batch is in flight at a time; what comes meanwhile is the next one. Its transaction notes its
number in this writer's row. After a lost connection nobody knows whether it was committed. Then a
new connection raises the epoch in the row, which waits for the old backend and makes whatever it
still does fail, and reads the number of the last batch: either that of the one in flight, whose
results are in the same row, or the one before, and then it is sent again.

A commit with WARNING 01000 was not replicated and may be lost, so it is settled in the same way.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg.pq.abc import PGresult

from pwserver.ipc import Scoreboard
from workers.book.models import Row
from workers.storage.operations import DONE, FULL, LABEL, SAVE, STALE, Answer, Operation, Result
from workers.storage.postgres.arrays import bigint, bigints, byteas, integer, integers
from workers.storage.postgres.link import Group, Link, Lost, Parameters, SqlError
from workers.storage.postgres.statements import COMMITTING
from workers.storage.store import Work

ID_TAKEN = "The clock went back and an id was taken; send it again."
KEY_RETIRED = "The key that it was sealed with has been retired; send it again."
AWAY = "The database server cannot be reached."

_AGAIN = {"40001", "40P01", "55P03", "23505"}
"""Errors that another try may not have: conflicts with the transaction of another host."""

_TRIES = 10
_WORDS: dict[str, Result] = {"D": DONE, "S": STALE, "F": FULL}

log = logging.getLogger(__name__)

Statements = list[tuple[str, Parameters]]


@dataclass(slots=True)
class _Batch:
    work: Sequence[Work]
    number: int = 0
    tries: int = 0
    since: float = field(default_factory=time.monotonic)


class PostgresCommitter:
    """The one writer of a host. The loop waits for `link.fd` and calls `work`."""

    def __init__(
        self,
        conninfo: str,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        patience_s: float,
        silence_s: float = 10.0,
    ) -> None:
        self._kept_ms = requests_kept_ms
        self._scoreboard = scoreboard
        self._patience_s = patience_s  # how long a batch may wait for the server
        self._id: int | None = None  # of this writer's row
        self._epoch = self._done = self._own_users = 0  # in this writer's row
        self._ready = False  # the row is ours, and nothing of a former connection can still happen
        self._sent: _Batch | None = None
        self._queue: list[_Batch] = []
        self._newest: int | None = None
        self.link = Link(conninfo, COMMITTING, self._on_connected, self._on_lost, silence_s)

    @property
    def ready(self) -> bool:
        """Whether the newest id is known, so that work may begin."""
        return self._newest is not None

    @property
    def idle(self) -> bool:
        """Whether everything is answered."""
        return self._sent is None and not self._queue

    def newest_id(self) -> int:
        """Return the greatest id when this writer was first connected."""
        assert self._newest is not None
        return self._newest

    def close(self) -> None:
        """Close the connection."""
        self.link.close()

    def commit(self, work: Sequence[Work]) -> None:
        """Make work durable as one transaction, and answer each later."""
        if work:
            self._queue.append(_Batch(work))
            self._send_next()

    def work(self) -> None:
        """Go on; call it when the connection is ready, and once a tick."""
        self.link.work()

    def tick(self) -> None:
        """Give up what has waited too long for the server."""
        self.link.work()
        too_late = time.monotonic() - self._patience_s
        if not self._ready:
            if self._sent is not None and self._sent.since < too_late:
                self._answer_all(self._sent, None)
                self._sent = None
            while self._queue and self._queue[0].since < too_late:
                self._answer_all(self._queue.pop(0), AWAY)

    # --- The connection. ---

    def _on_connected(self) -> None:
        if self._id is None:
            first: Statements = [("new", ()), ("newest", ())]
        else:
            first = [("fence", (integer(self._id),))]
        self.link.send(first, self._on_row)

    def _on_lost(self, why: str) -> None:
        if self._ready:
            log.warning("the connection to PostgreSQL is lost: %s", why)
        self._ready = False

    def _on_row(self, group: Group) -> None:
        """Take this writer's row, and settle the batch whose outcome is unknown."""
        if group.error is not None:
            if isinstance(group.error, SqlError):
                self.link.lose(str(group.error))
            return
        if not group.results[0].ntuples:
            self.link.lose("the row of this writer is gone")
            return
        if len(group.results) > 1:
            self._newest = _number(group.results[1], 0)
        row = group.results[0]
        self._id, self._epoch = _number(row, 0), _number(row, 1)
        self._ready = True
        batch, self._sent = self._sent, None
        if batch is not None and _number(row, 2) == batch.number:
            self._settle(batch, row)
        else:
            self._take_row(row)
            if batch is not None:
                self._queue.insert(0, batch)
        self._send_next()

    def _take_row(self, row: PGresult) -> int:
        """Note what the row says; return how many users this writer has added since."""
        before, self._own_users = self._own_users, _number(row, 4)
        self._done = _number(row, 2)
        self._scoreboard.users = _number(row, 5)
        return self._own_users - before

    # --- A batch. ---

    def _send_next(self) -> None:
        if not self._ready or self._sent is not None or not self._queue:
            return
        batch = self._queue.pop(0)
        while self._queue and not batch.tries and not self._queue[0].tries and not batch.number:
            batch.work = [*batch.work, *self._queue.pop(0).work]
        self._sent = batch
        batch.number = self._done + 1
        statements = self._statements(batch)
        self.link.send(statements, lambda group: self._on_batch(batch, statements, group))

    def _statements(self, batch: _Batch) -> Statements:
        assert self._id is not None
        writer = integer(self._id)
        rows = sorted(row for each in batch.work for row in each.rows)
        operations = [operation for each in batch.work for operation in each.operations]
        keys = {row[2] for row in rows} | {each[1] for each in operations if each[1] is not None}
        number, epoch = bigint(batch.number), bigint(self._epoch)
        statements: Statements = [
            ("begin", ()),
            ("lock", ()),
            ("batch", (writer, number, epoch)),
            ("keys", (integers(sorted(keys)),)),
        ]
        if rows:
            statements.append(("rows", (writer, *_columns(rows))))
        for operation in operations:
            statements += self._statements_of(operation, writer)
        statements += [("empty", (writer,)), ("outcome", (writer,)), ("commit", ())]
        return statements

    def _statements_of(self, operation: Operation, writer: bytes) -> Statements:
        if operation[0] == SAVE:
            return self._saving(operation, writer)
        if operation[0] == LABEL:
            _, key_id, user_id, replaced, sealed, labels, older = operation
            columns = (integer(key_id), sealed, labels.encode(), older)
            return [("label", (writer, *columns, bigint(user_id), replaced))]
        return [("delete", (writer, bigint(operation[2])))]

    def _saving(self, operation: Operation, writer: bytes) -> Statements:
        _, key_id, book, username, user_id, replaced, version, *values = operation
        sealed, saved_at_ms, labels, older, request_id, fingerprint, users_max = values
        request = None if request_id is None else request_id.encode()
        made = (bigint(user_id), integer(version), bigint(saved_at_ms))
        head = (writer, integer(book), request, bigint(fingerprint), *made, integer(key_id), sealed)
        its_labels = None if labels is None else labels.encode()
        statements: Statements = []
        if request is not None:
            oldest = bigint(saved_at_ms - self._kept_ms)
            newest = bigint(saved_at_ms + self._kept_ms)
            statements = [
                ("expire", (integer(book), request, oldest)),
                ("forget", (oldest, newest)),
            ]
        if replaced is None:
            name = None if username is None else username.encode()
            statements.append(("save", (*head, name, its_labels, bigint(users_max))))
        else:
            statements.append(("replace", (*head, its_labels, older, replaced)))
        return statements

    def _on_batch(self, batch: _Batch, statements: Statements, group: Group) -> None:
        if isinstance(group.error, Lost):
            return  # the next connection settles it
        if isinstance(group.error, SqlError):
            self._sent = None
            failed = statements[len(group.results)][0]
            self.link.send([("rollback", ())], lambda group: None)
            self._on_error(batch, failed, group.error)
            self._send_next()
            return
        self._sent = None
        self._settle(batch, group.results[-2])
        self._send_next()

    def _on_error(self, batch: _Batch, failed: str, error: SqlError) -> None:
        """Handle a batch of which certainly nothing was done."""
        if failed == "batch":
            self._queue.insert(0, batch)
            self.link.lose("another process has the row of this writer")
        elif failed in ("keys", "rows") and error.state in ("22012", "23505"):
            if len(batch.work) == 1:
                self._answer_all(batch, KEY_RETIRED if failed == "keys" else ID_TAKEN)
            else:
                self._queue[:0] = [
                    _Batch([each], tries=1, since=batch.since) for each in batch.work
                ]
        elif error.state in _AGAIN and batch.tries < _TRIES:
            batch.tries += 1
            self._queue.insert(0, batch)
        elif error.state == "25006":  # it is a standby now
            self._queue.insert(0, batch)
            self.link.lose(str(error))
        else:
            log.error("a batch was refused by PostgreSQL (%s): %s", error.state, error)
            self._answer_all(batch, f"The database server has refused it ({error.state}).")

    def _settle(self, batch: _Batch, row: PGresult) -> None:
        """Publish the number of users, then answer what is committed."""
        more = self._take_row(row)
        users = self._scoreboard.users - more
        results = [_result(word) for word in _text(row, 3).split(";")[:-1]]
        at = 0
        for each in batch.work:
            operations = len(each.operations)
            each.answer((users, results[at : at + operations]))
            users += len(each.rows)
            at += operations

    @staticmethod
    def _answer_all(batch: _Batch, answer: Answer) -> None:
        for each in batch.work:
            each.answer(answer)


def _columns(rows: list[Row]) -> tuple[bytes, ...]:
    ids, books, keys, sealed, times = zip(*rows, strict=True)
    return bigints(ids), integers(books), integers(keys), byteas(sealed), bigints(times)


def _result(word: str) -> Result:
    if word in _WORDS:
        return _WORDS[word]
    user_id, version, fingerprint = map(int, word.split(","))
    return user_id, version, fingerprint


def _number(row: PGresult, column: int) -> int:
    return int.from_bytes(row.get_value(0, column) or b"", "big", signed=True)


def _text(row: PGresult, column: int) -> str:
    return (row.get_value(0, column) or b"").decode()
