"""Checks every reply of every load.

If a reply is known to the last byte, a list of replies is compared at once; if it has a version or
a time, what comes before that is compared. It is lean, because it runs on the machine that is
measured: a reply that comes alone takes 0.1 microseconds (save, verify), 0.6 (get), 0.8 (count,
new), 1.3 (named) or 3.7 (a listing of 50 users); a length of Redis' list takes 1.0, and 0.14 among
64.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from benchmarks.client.book import LISTED_END, LISTED_START, LISTED_USERNAME, saved_start
from benchmarks.client.wire import BenchmarkFailed

_Expected = TypeVar("_Expected")

_END_OF_PASSWORD = re.compile(rb'\d+,"time_saved":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"}')


class Replies(ABC):
    """The checks of one connection, and the account of what was acknowledged to it.

    users     new users
    versions  versions of the prepared users
    """

    def __init__(self) -> None:
        self.users = self.versions = 0

    @abstractmethod
    def check(self, first: int, replies: list[bytes]) -> None:
        """Check the replies to the requests from position `first` on; raise `BenchmarkFailed`."""


class Expecting(Replies, Generic[_Expected]):
    """Checks against a list, laid out beforehand, of what each position must be answered."""

    def __init__(self, expected: list[_Expected]) -> None:
        super().__init__()
        self._expected = expected


def _fail(expected: bytes, reply: bytes) -> NoReturn:
    raise BenchmarkFailed(f"expected {expected!r}, the server answered {reply[:200]!r}")


class Counts(Expecting[bytes | None]):
    """Saves and counts: "saved", or, where None is expected, a number that never falls behind."""

    def __init__(self, number_in: Callable[[bytes], int], expected: list[bytes | None]) -> None:
        super().__init__(expected)
        self._number_in = number_in
        self._number = 0  # of users: a lower one would be wrong

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare replies that are all "saved" at once, others one by one."""
        expected = self._expected[first : first + len(replies)]
        if replies == expected:
            self._number += len(replies)
            self.users += len(replies)
            return
        for awaited, reply in zip(expected, replies, strict=True):
            if awaited is None:
                self._count(reply)
            elif reply == awaited:
                self._number += 1
                self.users += 1
            else:
                _fail(awaited, reply)

    def _count(self, reply: bytes) -> None:
        try:
            number = self._number_in(reply)
        except ValueError:
            _fail(b"a number of users", reply)
        if number < self._number:
            raise BenchmarkFailed(
                f"the number of users is {number}, though at least {self._number} were "
                "acknowledged before it was asked for"
            )
        self._number = number


class Lengths(Expecting[bool]):
    """Saves and counts in Redis: each is answered with the length of the list, and True, where a
    save is expected, means that it has grown."""

    def __init__(self, expected: list[bool]) -> None:
        super().__init__(expected)
        self._length = 0

    def check(self, first: int, replies: list[bytes]) -> None:
        """Read all lengths at once, for they are all there is to look at."""
        expected = self._expected[first : first + len(replies)]
        try:
            lengths = [int(reply[1:]) for reply in replies]
        except ValueError:
            _fail(b"lengths of the list", b" ".join(replies))
        if b"".join(replies).count(b":") != len(replies):
            _fail(b"lengths of the list", b" ".join(replies))
        length = self._length
        for is_save, now in zip(expected, lengths, strict=True):
            if now < length + is_save:
                raise BenchmarkFailed(
                    f"the list is {now} long, though {length + is_save} were acknowledged or asked "
                    "for on this connection"
                )
            length = now
        self._length = length
        self.users += sum(expected)


class Constants(Expecting[bytes]):
    """Replies that are known to the last byte, and acknowledge no save."""

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare all at once."""
        expected = self._expected[first : first + len(replies)]
        if replies != expected:
            wrong = [pair for pair in zip(expected, replies, strict=True) if pair[0] != pair[1]]
            _fail(*wrong[0])


class Versions(Expecting[bytes]):
    """Saves of users that are there: each version is greater than the last one seen here."""

    def __init__(self, expected: list[bytes]) -> None:
        super().__init__(expected)
        self._seen: dict[bytes, int] = {}

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare what stands before the version, and read it."""
        seen = self._seen
        expected = self._expected[first : first + len(replies)]
        for start, reply in zip(expected, replies, strict=True):
            version = reply[len(start) : -1]
            if not (reply.startswith(start) and version.isdigit() and reply.endswith(b"}")):
                _fail(start, reply)
            number, last = int(version), seen.get(start, 1)
            if number <= last:
                raise BenchmarkFailed(
                    f"the server answered {reply!r}, though version {last} was acknowledged on "
                    "this connection before the save was sent"
                )
            seen[start] = number
        self.versions += len(replies)


class Passwords(Expecting[bytes]):
    """Passwords that are read: name and password are right, a version and a time follow."""

    def __init__(self, expected: list[bytes]) -> None:
        super().__init__(expected)
        self._ends: set[bytes] = set()  # found to be good: they are few, so looked up, not parsed

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare name and password, and look at how the reply ends."""
        ends = self._ends
        expected = self._expected[first : first + len(replies)]
        for start, reply in zip(expected, replies, strict=True):
            end = reply[len(start) :]
            if not (reply.startswith(start) and (end in ends or self._is_good(end))):
                _fail(start, reply)

    def _is_good(self, end: bytes) -> bool:
        good = _END_OF_PASSWORD.fullmatch(end) is not None
        if good:
            self._ends.add(end)
        return good


class Listings(Expecting[tuple[bytes, int]]):
    """Listings of a group: how each user in it must begin, and how many they are."""

    def check(self, first: int, replies: list[bytes]) -> None:
        """Count the users, and those of the group."""
        expected = self._expected[first : first + len(replies)]
        for (username, members), reply in zip(expected, replies, strict=True):
            whole = reply.startswith(LISTED_START) and reply.endswith(LISTED_END)
            if not (whole and reply.count(LISTED_USERNAME) == members == reply.count(username)):
                _fail(b"%d users like %b" % (members, username), reply)


class NewNames(Replies):
    """Saves under new names: every one is a first version."""

    def __init__(self, name: Callable[[int], str]) -> None:
        super().__init__()
        self._name = name

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare with the whole reply that each position must get."""
        for position, reply in enumerate(replies, first):
            expected = saved_start(self._name(position)) + b"1}"
            if reply != expected:
                _fail(expected, reply)
        self.users += len(replies)


class Prepared(NewNames):
    """Saves of the users to be prepared: a first version, unless an earlier run has saved them."""

    def check(self, first: int, replies: list[bytes]) -> None:
        """Compare what stands before the version; a first one is a new user."""
        for position, reply in enumerate(replies, first):
            start = saved_start(self._name(position))
            version = reply[len(start) : -1]
            if not (reply.startswith(start) and version.isdigit() and reply.endswith(b"}")):
                _fail(start, reply)
            self.users += version == b"1"
        self.versions += len(replies)
