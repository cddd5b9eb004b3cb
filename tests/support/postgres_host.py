"""One host of a book on a PostgreSQL server, without a service: its committer and its reader."""

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from pwserver.ipc import Scoreboard
from pwserver.limits import TICK_S
from tests.support.books import KEYRING, REQUESTS_KEPT_MS, new_scoreboard
from workers.book.models import Row
from workers.storage.answers import Pending
from workers.storage.operations import Operation, Result
from workers.storage.postgres.committing import PostgresCommitter
from workers.storage.postgres.link import Link
from workers.storage.postgres.reading import PostgresReader
from workers.storage.postgres.schema import prepare

NOTHING = "nothing yet"
DEADLINE_S = 60.0


@dataclass
class Asked:
    """Work, and its answer."""

    rows: list[Row] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    outcome: Any = NOTHING
    since: float = field(default_factory=time.monotonic)

    def answer(self, answer: Any) -> None:
        """Take the outcome."""
        assert self.outcome == NOTHING, "it was answered before"
        self.outcome = answer


class Host:
    """One host's committer and reader, and the loop that works for them."""

    def __init__(self, conninfo: str, patience_s: float = 2 * DEADLINE_S) -> None:
        self.tick_at = 0.0  # when the committer looks after what it has to do once a tick
        self.scoreboard: Scoreboard = new_scoreboard()
        self.committer = PostgresCommitter(conninfo, REQUESTS_KEPT_MS, self.scoreboard, patience_s)
        self.reader = PostgresReader(conninfo, self.scoreboard)
        self.until(lambda: self.committer.takes_work and self.reader.ready)

    def turn(self) -> None:
        """Wait for an event, and handle it."""
        links: list[Link] = [self.committer.link, self.reader.link]
        select.select(links, [], [], 0.02)
        for link in links:
            link.work()

    def until(self, happened: Any) -> None:
        """Work until something has happened."""
        deadline = time.monotonic() + DEADLINE_S
        while not happened():
            assert time.monotonic() < deadline, "it has not happened"
            self.turn()
            if time.monotonic() > self.tick_at:
                self.tick_at = time.monotonic() + TICK_S
                self.committer.tick(idle=True)

    def commit(self, *work: Asked) -> Any:
        """Commit, and return the outcomes."""
        self.committer.commit(work)
        self.until(lambda: all(each.outcome != NOTHING for each in work))
        return work[0].outcome if len(work) == 1 else [each.outcome for each in work]

    def do(self, *operations: Any) -> Any:
        """Do operations together, and return their results."""
        outcome = self.commit(Asked(operations=[tuple(each) for each in operations]))
        return outcome[1] if isinstance(outcome, tuple) else outcome

    def ask(self, pending: Pending) -> Any:
        """Return an answer."""
        self.until(lambda: pending.resolved)
        if pending.error is not None:
            raise pending.error
        return pending.value

    def close(self) -> None:
        """Close both connections."""
        self.committer.close()
        self.reader.link.close()


class ServerStore:
    """A book on a server, with the methods of SQLite's `Store` that the tests of stores use."""

    def __init__(self, conninfo: str) -> None:
        prepare(conninfo, KEYRING.check_values)
        self.connection = _Connection(conninfo)
        self.host = Host(conninfo)

    @property
    def users(self) -> int:
        """How many users there are."""
        return self.host.scoreboard.users

    def commit(self, rows: list[Row], operations: list[Operation]) -> list[Result]:
        """Commit, and return the results."""
        outcome = self.host.commit(Asked(rows, [tuple(each) for each in operations]))
        assert isinstance(outcome, tuple), outcome
        results: list[Result] = outcome[1]
        return results

    def close(self) -> None:
        """Close all connections."""
        self.host.close()
        self.connection.close()


class _Connection:
    """Runs statements of SQLite's dialect, as another program does."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self.close = self._connection.close

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        """Run a statement; return a cursor."""
        return self._connection.execute(statement.replace("?", "%s"), parameters)


class ServerReader:
    """A reader that waits for each answer."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getattr__(self, question: str) -> Callable[..., Any]:
        asked = getattr(self._host.reader, question)
        return lambda *values, **named: self._host.ask(asked(*values, **named))
