"""One host of a book on a PostgreSQL server, without a service: its committer and its reader."""

import select
import time
from dataclasses import dataclass, field
from typing import Any

from pwserver.ipc import Scoreboard
from pwserver.limits import TICK_S
from tests.support.books import REQUESTS_KEPT_MS, new_scoreboard
from workers.book.models import Row
from workers.storage.answers import Pending
from workers.storage.operations import Operation
from workers.storage.postgres.committing import PostgresCommitter
from workers.storage.postgres.link import Link
from workers.storage.postgres.reading import PostgresReader

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

    def __init__(self, conninfo: str, patience_s: float = 30.0) -> None:
        self.tick_at = 0.0  # when the committer looks after what it has to do once a tick
        self.scoreboard: Scoreboard = new_scoreboard()
        self.committer = PostgresCommitter(conninfo, REQUESTS_KEPT_MS, self.scoreboard, patience_s)
        self.reader = PostgresReader(conninfo, self.scoreboard)
        self.until(lambda: self.committer.takes_work and self.reader.link.connected)

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
