"""A server with users in it, and the check that every save that it acknowledged is there.

Users are counted, and so are versions, because a save of an existing user makes only a version. The
server's own numbers must agree with what the clients were told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.client.book import knows_the_book, versions_in, wants_a_token
from benchmarks.client.clients import Clients
from benchmarks.client.generator import Outcome
from benchmarks.client.wire import (
    BASIC_LOADS,
    BOOK_LOADS,
    LINES,
    LOADS,
    PREPARE,
    BenchmarkFailed,
    Ways,
    number_of_users,
)
from benchmarks.servers.servers import Target


@dataclass
class Subject:
    """A server that is measured."""

    target: Target
    ways: Ways
    users: int
    """How many it was to have at first."""

    loads: Sequence[str]
    """What can be asked of it."""

    users_before: int
    versions_before: int = 0
    """Of the prepared users, if it had any."""

    saves: int = 0
    """New users this run had acknowledged: to begin with, in warm-ups and in measured time."""

    versions: int = 0
    """Versions of the prepared users, likewise."""

    @classmethod
    def prepare(cls, target: Target, users: int, loads: Sequence[str], clients: Clients) -> Subject:
        """Fill `target` up to `users` users: with names, if any of `loads` needs them.

        A server of another protocol was given its users when it was started.
        """
        ways = target.ways()
        ours = ways.basic.dialect == LINES
        if ours and {*loads} & {*BOOK_LOADS} and wants_a_token(ways.book):
            raise BenchmarkFailed(
                f"{target.name} reads nothing out to guests; name a file with the token of an "
                "application, which has a book of its own: --token-file"
            )
        known = LOADS if ours and knows_the_book(ways.book) else BASIC_LOADS
        subject = cls(target, ways, users, known, number_of_users(ways.basic))
        if ours and users:
            subject._fill(bool({*loads} & {*known} & {*BOOK_LOADS}), clients)
        if (users or not ours) and subject.users_after != users:
            raise BenchmarkFailed(
                f"{target.name} has {subject.users_after} users with those of this benchmark, "
                f"not {users}: it had others"
            )
        subject.check_users()
        return subject

    def _fill(self, named: bool, clients: Clients) -> None:
        missing = self.users - self.users_before
        if missing < 0:
            return  # it is refused, and nothing of ours goes into it
        if named:
            self.versions_before = versions_in(self.ways.book)
            self.add(clients.fill(self.ways.book, PREPARE, self.users))
        elif missing > 0:
            self.add(clients.fill(self.ways.basic, "save", missing))

    @property
    def users_after(self) -> int:
        """Return how many users there must be now."""
        return self.users_before + self.saves

    def add(self, outcome: Outcome) -> None:
        """Take into account what was acknowledged."""
        self.saves += outcome.users
        self.versions += outcome.versions

    def check_users(self) -> None:
        """Raise unless the users grew by exactly the new ones that were acknowledged."""
        number = number_of_users(self.ways.basic)
        if number != self.users_after:
            raise BenchmarkFailed(
                f"{self.target.name} has {number} users; {self.users_before} it had and "
                f"{self.saves} saves of new ones it acknowledged make {self.users_after}"
            )

    def check_versions(self) -> None:
        """Raise unless each save of a prepared user that was acknowledged made one version."""
        if not self.versions:
            return
        number = versions_in(self.ways.book)
        if number != self.versions_before + self.versions:
            raise BenchmarkFailed(
                f"the prepared users of {self.target.name} have had {number} versions; "
                f"{self.versions_before} before and {self.versions} saves of them that were "
                f"acknowledged make {self.versions_before + self.versions}"
            )
