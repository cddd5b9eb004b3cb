"""Commits to PostgreSQL: exactly once, also across lost connections and failovers.

A batch's transaction notes its number in this writer's row. After a lost connection nobody knows
which of the batches in flight were committed. Then a new connection raises the epoch in the row,
which waits for the old backend and makes whatever it still does fail, and reads the number of the
last batch: those up to it are committed, and the others are sent again.

What comes while a batch is in flight waits with the writer until that is answered. If the server
is far, it waits only until the server must be done with the one before, so batches are on their way
one behind the other. Each is done only if the one before it was. The row has the results of the
last batch alone, so nothing is sent behind a batch that has results.

A commit with WARNING 01000 was not replicated and may be lost, so it is settled in the same way.

Once a tick there is a batch, even if it is empty: it tells how many users other hosts have saved,
and that this server is still the one that can commit (see `reading`).
"""

import logging
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from psycopg.pq.abc import PGresult

from pwserver.ipc import Scoreboard
from pwserver.limits import TICK_S
from pwserver.tally import Tally
from workers.storage.operations import DONE, FULL, STALE, Answer, Operation, Result
from workers.storage.outage import DISK_FULL, READ_ONLY, SERVER_AWAY, SERVER_REFUSES, Outage
from workers.storage.postgres.arrays import integer, integers
from workers.storage.postgres.batching import Batching, Statements, ordered
from workers.storage.postgres.link import Group, Link, Lost, SqlError
from workers.storage.postgres.statements import COMMITTING, EMPTIED_TOGETHER
from workers.storage.store import Work

ID_TAKEN = "The clock went back and an id was taken; send it again."
KEY_RETIRED = "The key that it was sealed with has been retired; send it again."

_AGAIN = {"40001", "40P01", "55P03", "23505"}
"""Errors that another try may not have: conflicts with the transaction of another host."""

_NOT_A_PRIMARY = "25006"
_REASONS = {"53100": DISK_FULL, _NOT_A_PRIMARY: READ_ONLY}
_SPLITS = ("22", "23")  # the classes of errors that one part of a batch may have alone

_IN_FLIGHT_MAX = 4
"""Batches on their way at a time. A server that is 5 ms away was busy all the time with three."""

_FAR_S = 0.001
"""What makes a server far. A nearer one does more if all that has come by its answer is one batch.
"""

_TRIES = 10
_FAREWELL_S = 0.5
_UNNOTICED_S = 1.0
"""How long the server may be away before `status` and the log say so."""

_TABLE_BYTES_MAX = 512 * 1024
"""How large the table of writers may be for the users to be counted with each commit; beyond it,
because old versions of its rows are still needed by somebody, once a tick."""

_LOG_EVERY_S = 10.0
_COMMIT_US_MAX = 10_000
_COMMIT_WEIGHT = 8
_US = 1_000_000
_WORDS: dict[str, Result] = {"D": DONE, "S": STALE, "F": FULL}

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Batch:
    work: Sequence[Work]
    since: float  # when the oldest of its work was asked for
    number: int = 0
    tries: int = 0
    sent_us: int = 0
    operations: list[Operation] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # in which they are done

    @property
    def changes(self) -> int:
        """How many rows and operations it has."""
        return len(self.operations) + sum(len(each.rows) for each in self.work)


class PostgresCommitter:
    """The one writer of a host. Its work is answered after `commit`, in a later turn."""

    more_to_do = False

    def __init__(
        self,
        conninfo: str,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        patience_s: float,
    ) -> None:
        self._batching = Batching(requests_kept_ms)
        self._scoreboard = scoreboard
        self._outage = Outage(scoreboard)
        self._patience_s = patience_s  # how long work may wait for the server
        self._id: int | None = None  # of this writer's row
        self._epoch = self._done = self._own_users = 0  # in this writer's row
        self._others_users = 0  # in those of the other writers, at the last look
        self._counts_often = True  # with each commit
        self._ready = False  # the row is ours, and nothing of a former connection can still happen
        self._sent: list[_Batch] = []  # in flight
        self._server_us = self._answered_us = 0  # how long it takes for a batch; its last answer
        self._queue: list[_Batch] = []  # what is tried again, or one by one
        self._beat_due = False
        self._newest: int | None = None
        self._host = f"{socket.gethostname()}:{os.getcwd()}"  # several may be on one machine
        self._keys: list[int] = []  # that this host has
        self._lost_at = time.monotonic()
        self._why = SERVER_AWAY
        self._log_at, self._logged = 0.0, set[str]()
        self.tally = Tally()
        self.link = Link(conninfo, COMMITTING, self._on_connected, self._on_lost)
        self.links = (self.link,)

    @property
    def takes_work(self) -> bool:
        """Whether a commit can begin."""
        return self._ready and not self._queue and self._has_room()

    def _has_room(self) -> bool:
        """Tell whether the server would go on at once with one more batch."""
        if not self._sent:
            return True
        last = self._sent[-1]
        return (
            self.link.shortest_s > _FAR_S
            and not last.operations
            and len(self._sent) < _IN_FLIGHT_MAX
            and _now_us() >= last.sent_us + self._server_us
        )

    def newest_id(self) -> int | None:
        """Return the greatest id when this writer was first connected; None before that."""
        return self._newest

    def know_keys(self, keys: Sequence[int]) -> None:
        """Let the other hosts know which keys this host has."""
        if sorted(keys) != self._keys:
            self._keys = sorted(keys)
            self._tell_keys(self._host)

    def _tell_keys(self, host: str) -> list[Group]:
        """Note in this writer's row which keys this host has; what is returned gets the answer."""
        told: list[Group] = []
        if self._ready and self._id is not None:
            about = (integer(self._id), host.encode(), integers(self._keys))
            self.link.send([("about", about)], told.append)
        return told

    def close(self) -> None:
        """Close the connection. A rotation of keys does not wait for this host any more."""
        if self._ready:
            told = self._tell_keys("")
            until = time.monotonic() + _FAREWELL_S
            while not told and self.link.connected and time.monotonic() < until:
                select.select([self.link], [], [], TICK_S)
                self.link.work()
        self.link.close()

    def commit(self, work: Sequence[Work]) -> None:
        """Make work durable as one transaction, and answer each later. Call it if `takes_work`."""
        self._queue.append(_Batch(work, min(each.since for each in work)))
        self._send_next()

    def rest(self, *, idle: bool) -> None:
        """Do nothing: what is due is done by the server, or with a batch."""

    def tick(self, *, idle: bool) -> None:
        """Give up what has waited too long for the server, and see what other hosts have done."""
        self.link.work()
        now = time.monotonic()
        self._give_up(now - self._patience_s)
        if self._ready:
            self._beat_due = True
            self._send_next()
        elif now > self._lost_at + _UNNOTICED_S:
            self._outage.refused(0, self._why)

    def _give_up(self, before: float) -> None:
        if late := [each for each in self._sent if each.work and each.since < before]:
            self._sent = [each for each in self._sent if each not in late]
            if self._ready:
                self.link.lose("the server has not committed in time")
            for batch in late:
                self._refuse(batch, None, SERVER_AWAY)
        while self._queue and self._queue[0].since < before:
            batch = self._queue.pop(0)
            self._refuse(batch, self._why, self._why)

    # --- The connection. ---

    def _on_connected(self) -> None:
        first: Statements = [("settings", ()), ("service", ())]
        first.append(("new", ()) if self._id is None else ("fence", (integer(self._id),)))
        first.append(("total", ()))
        if self._newest is None:
            first.append(("newest", ()))
        self.link.send(first, self._on_row)

    def _on_lost(self, why: str) -> None:
        now = time.monotonic()
        if self._ready:
            self._lost_at, self._why = now, SERVER_AWAY
        if now > self._log_at:
            self._log_at, self._logged = now + _LOG_EVERY_S, set()
        if why not in self._logged:
            log.warning("there is no connection to PostgreSQL: %s", why)
            self._logged.add(why)
        self._ready = False

    def _on_row(self, group: Group) -> None:
        """Take this writer's row, and settle the batches whose outcome is unknown."""
        if group.error is not None:
            if isinstance(group.error, SqlError):
                self._why = _REASONS.get(group.error.state, SERVER_AWAY)
                self.link.lose(str(group.error))
            return
        row, total = group.results[2:4]
        if not _number(total, 3):
            self._why = SERVER_REFUSES
            self.link.lose("it has a synchronous_commit that is weaker than on")
            return
        sent, self._sent = self._sent, []
        if not row.ntuples:  # nobody has seen this writer for a day
            self._id = None
            for batch in sent:
                self._refuse(batch, None, SERVER_AWAY)
            self._on_connected()
            return
        if len(group.results) > 4:
            self._newest = _number(group.results[4], 0)
            self._scoreboard.opened()
        self._id, self._epoch = _number(row, 0), _number(row, 1)
        self._ready = self._beat_due = True
        self._tell_keys(self._host)
        self._take_total(total, _number(row, 4))
        committed = [each for each in sent if each.number <= _number(row, 2)]
        self._queue[:0] = sent[len(committed) :]
        if committed:
            work = [work for each in committed for work in each.work]
            self._settle(replace(committed[-1], work=work), row, group.sent_at)
        else:
            self._take_row(row, group.sent_at)
        self._send_next()

    def _take_total(self, total: PGresult, own_users: int) -> None:
        """Note how many users the other writers have added, and which server tells it."""
        self._others_users = _number(total, 0) - own_users
        self._counts_often = _number(total, 4) < _TABLE_BYTES_MAX
        self._scoreboard.database_server = _number(total, 1) if _number(total, 2) else 0

    def _take_row(self, row: PGresult, sent_at: float) -> int:
        """Publish what the row says; return how many users this writer has added since."""
        before, self._own_users = self._own_users, _number(row, 4)
        self._done = _number(row, 2)
        self._scoreboard.users = max(0, self._others_users + self._own_users)
        self._scoreboard.committed_ms = int(sent_at * 1000)
        self._scoreboard.probe_wanted = False
        return self._own_users - before

    # --- A batch. ---

    def _send_next(self) -> None:
        while self._ready and self._queue and self._has_room():
            self._send(self._queue.pop(0))
        if self._ready and self._beat_due and not self._sent:
            self._send(_Batch((), time.monotonic()))

    def _send(self, batch: _Batch) -> None:
        empties, self._beat_due = self._beat_due, False
        batch.number = (self._sent[-1].number if self._sent else self._done) + 1
        batch.sent_us = _now_us()
        self._sent.append(batch)
        if not batch.operations:
            batch.operations = [operation for each in batch.work for operation in each.operations]
            batch.order = ordered(batch.operations)
        self._note_oldest()
        assert self._id is not None
        statements = self._batching.statements(
            (self._id, batch.number, self._epoch),
            [row for each in batch.work for row in each.rows],
            [batch.operations[place] for place in batch.order],
            empties=empties,
            counts=empties or self._counts_often,
        )
        self.link.send(statements, lambda group: self._on_batch(batch, statements, group))

    def _on_batch(self, batch: _Batch, statements: Statements, group: Group) -> None:
        if isinstance(group.error, Lost) or not self._sent or self._sent[0] is not batch:
            return  # the next connection settles it, it was given up, or it comes again
        del self._sent[0]
        if isinstance(group.error, SqlError):
            failed = statements[len(group.results)][0]
            self.link.send([("rollback", ())], lambda group: None)
            # What was sent behind it fails as well.
            self._queue[:0] = [replace(each) for each in self._sent]
            self._sent = []
            self._on_error(batch, failed, group.error)
        else:
            self._note_server(batch)
            row = group.results[-2]
            if statements[-3][0] == "total":
                self._take_total(group.results[-3], _number(row, 4))
            if statements[-4][0] == "empty":
                self._beat_due = _number(group.results[-4], 0) == EMPTIED_TOGETHER
            self._settle(batch, row, group.sent_at)
        self._note_oldest()
        self._send_next()

    def _note_oldest(self) -> None:
        """Publish since when a commit is in flight."""
        self._scoreboard.commit_since_us = self._sent[0].sent_us if self._sent else 0

    def _note_server(self, batch: _Batch) -> None:
        """Note how long the server was busy with a batch: without the way, and those before it."""
        now_us = _now_us()
        arrived_us = batch.sent_us + int(self.link.shortest_s * _US)
        took_us = max(0, now_us - max(arrived_us, self._answered_us))
        self._server_us += (took_us - self._server_us) // _COMMIT_WEIGHT
        self._answered_us = now_us

    def _on_error(self, batch: _Batch, failed: str, error: SqlError) -> None:
        """Handle a batch of which certainly nothing was done."""
        alone = len(batch.work) <= 1
        if failed == "batch":
            self._queue.insert(0, batch)
            self.link.lose("another process has the row of this writer")
        elif error.state == _NOT_A_PRIMARY:
            self._why = READ_ONLY
            self._queue.insert(0, batch)
            self.link.lose(str(error))
        elif alone and failed in ("keys", "rows") and error.state in ("22012", "23505"):
            self._refuse(batch, KEY_RETIRED if failed == "keys" else ID_TAKEN)
        elif error.state in _AGAIN and failed != "rows" and batch.tries < _TRIES:
            batch.tries += 1
            self._queue.insert(0, batch)
        elif not alone and error.state[:2] in _SPLITS:
            self._queue[:0] = [_Batch([each], batch.since, tries=1) for each in batch.work]
        else:
            log.error("a batch was refused by PostgreSQL (%s): %s", error.state, error)
            reason = _REASONS.get(error.state, SERVER_REFUSES)
            self._refuse(batch, reason, reason)

    def _settle(self, batch: _Batch, row: PGresult, sent_at: float) -> None:
        """Publish the number of users, then answer what is committed."""
        more = self._take_row(row, sent_at)
        self._note_time(batch)
        users = self._scoreboard.users - more
        results: list[Result] = [None] * len(batch.operations)
        for place, word in zip(batch.order, _text(row, 3).split(";"), strict=False):
            results[place] = _result(word)
        at = 0
        for each in batch.work:
            operations = len(each.operations)
            each.answer((users, results[at : at + operations]))
            users += len(each.rows)
            at += operations
        self._outage.written()

    def _note_time(self, batch: _Batch) -> None:
        """Publish how long commits take."""
        scoreboard = self._scoreboard
        if batch.work:
            took_us = _now_us() - batch.sent_us
            counts_us = min(took_us, _COMMIT_US_MAX)
            scoreboard.commit_us += (counts_us - scoreboard.commit_us) // _COMMIT_WEIGHT
            self.tally.commit(batch.changes, took_us)

    def _refuse(self, batch: _Batch, answer: Answer, outage: str = "") -> None:
        """Answer what is not done, or what nobody knows; `outage` is why nothing can be saved."""
        if outage:
            self._outage.refused(batch.changes, outage)
        if batch.work:
            self.tally.failed_commit()
        for each in batch.work:
            each.answer(answer)


def _result(word: str) -> Result:
    if word in _WORDS:
        return _WORDS[word]
    user_id, version, fingerprint = map(int, word.split(","))
    return user_id, version, fingerprint


def _now_us() -> int:
    return time.monotonic_ns() // 1000


def _number(row: PGresult, column: int) -> int:
    return int.from_bytes(row.get_value(0, column) or b"", "big", signed=True)


def _text(row: PGresult, column: int) -> str:
    return (row.get_value(0, column) or b"").decode()
