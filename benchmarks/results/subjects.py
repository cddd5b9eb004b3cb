"""A server with users in it, and the check that every save that it acknowledged is there.

Users are counted, and so are versions: a save of a user that is there makes no user, but one
version. What is compared is the server's own account of them with what the clients were told.
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
        """Fill `target` up to `users` users: with names, if any of `loads` needs them."""
        ways = target.ways()
        if ways.basic.dialect != LINES:
            return cls._of_another(target, ways, users)
        if {*loads} & {*BOOK_LOADS} and wants_a_token(ways.book):
            raise BenchmarkFailed(
                f"{target.name} reads nothing out to guests; name a file with the token of an "
                "application, which has a book of its own: --token-file"
            )
        known = LOADS if knows_the_book(ways.book) else BASIC_LOADS
        subject = cls(target, ways, users, known, number_of_users(ways.basic))
        if users:
            subject._fill(bool({*loads} & {*known} & {*BOOK_LOADS}), clients)
        subject.check_users()
        return subject

    @classmethod
    def _of_another(cls, target: Target, ways: Ways, users: int) -> Subject:
        """Take a server of another protocol, which was given its users when it was started."""
        subject = cls(target, ways, users, BASIC_LOADS, number_of_users(ways.basic))
        if subject.users_before != users:
            raise BenchmarkFailed(
                f"{target.name} was to be started with {users} users, "
                f"and has {subject.users_before}"
            )
        return subject

    def _fill(self, named: bool, clients: Clients) -> None:
        missing = self.users - self.users_before
        if missing < 0:
            raise BenchmarkFailed(
                f"{self.target.name} has {self.users_before} users, not {self.users}"
            )
        if named:
            self.versions_before = versions_in(self.ways.book)
            self.add(clients.prepare(self.ways.book, self.users))
        elif missing:
            self.add(clients.preload(self.ways.basic, missing))
        if self.users_after != self.users:
            raise BenchmarkFailed(
                f"{self.target.name} has {self.users_after} users with those of this benchmark, "
                f"not {self.users}: it had others"
            )

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
