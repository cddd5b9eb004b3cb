"""The loads: what a client process asks, request by request, and which replies it must get.

A `Script` is what all connections of a process ask, one request at each position. Most loads are a
`Circle`: requests and their expected replies are made before the clock starts, and sent again and
again. New names are a `Series`, made when they are sent, because each may be used only once; making
one, and its expected reply, takes 1.3 to 1.8 microseconds.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.client import book
from benchmarks.client.dialects import DIALECTS
from benchmarks.client.replies import (
    Constants,
    Counts,
    Lengths,
    Listings,
    NewNames,
    Passwords,
    Prepared,
    Replies,
    Versions,
)
from benchmarks.client.wire import PREPARE, Job, shares

SEED_CIRCLE = 1000
"""Requests of a circle of the basic contract's loads: a multiple of `MIXED_COUNT_EVERY`, so that
the mix does not change where the circle closes."""

BOOK_CIRCLE = 20_000
"""Requests of a circle of the book's loads, each on a user drawn from all: those of two processes
touch most pages of a book of a million users, and more than any cache of the service holds."""

MIXED_COUNT_EVERY = 10

_SERIES_BITS = 24
"""A connection may save 2**24 new names in one job."""

_NAME_BITS = 48
_NAME_STEP = 0x9E3779B97F4B  # odd, so that a product modulo 2**48 occurs once; of the golden ratio


class Script(ABC):
    """The requests of a process's connections. After `circle` positions comes the first again."""

    circle: int

    @abstractmethod
    def position(self, index: int) -> int:
        """Return where connection `index` begins."""

    @abstractmethod
    def requests(self, first: int, number: int) -> bytes:
        """Return the requests from position `first` on, no more than may be in flight at once."""

    @abstractmethod
    def replies(self) -> Replies:
        """Return the checks of one more connection."""


class Circle(Script):
    """Requests and expectations in a circle, with its beginning repeated at the end.

    The repeated part is as long as the deepest pipeline, so that any run of requests that may be in
    flight at once is a plain slice: request `i` is `_bytes[_starts[i]:_starts[i + 1]]`.
    """

    def __init__(
        self,
        job: Job,
        requests: list[bytes],
        kind: Callable[[list[Any]], Replies],
        expected: list[Any],
    ) -> None:
        self.circle = len(requests)
        self._step = self.circle // job.connections + 7  # not in step with the mix
        positions = [position % self.circle for position in range(self.circle + job.point.depth)]
        lines = [requests[position] for position in positions]
        self._starts = list(itertools.accumulate(map(len, lines), initial=0))
        self._bytes = b"".join(lines)
        self._kind = kind
        self._expected = [expected[position] for position in positions]

    def position(self, index: int) -> int:
        """Begin far from the others."""
        return index * self._step % self.circle

    def requests(self, first: int, number: int) -> bytes:
        """Return a slice."""
        return self._bytes[self._starts[first] : self._starts[first + number]]

    def replies(self) -> Replies:
        """Return the checks of one more connection."""
        return self._kind(self._expected)


class Series(Script):
    """Saves each of which is made once, under a name of its own."""

    circle = 1 << _NAME_BITS
    checks: Callable[[Callable[[int], str]], Replies]

    def position(self, index: int) -> int:
        """Begin where no other connection comes."""
        return index << _SERIES_BITS

    def requests(self, first: int, number: int) -> bytes:
        """Make them."""
        return b"".join([self.request(position) for position in range(first, first + number)])

    def replies(self) -> Replies:
        """Return the checks of one more connection."""
        return type(self).checks(self.name)

    @abstractmethod
    def name(self, position: int) -> str:
        """Return the name of a position."""

    @abstractmethod
    def request(self, position: int) -> bytes:
        """Save the user of a position."""


class New(Series):
    """Saves under names that nobody has used; they sort in no order."""

    checks = NewNames

    def __init__(self, job: Job) -> None:
        self._salt = job.salt

    def name(self, position: int) -> str:
        """Return the name of a position."""
        return f"new-{position * _NAME_STEP % (1 << _NAME_BITS):012x}-{self._salt}"

    def request(self, position: int) -> bytes:
        """Save a user."""
        return book.save_request(book.password_of(position), self.name(position))


class Prepare(Series):
    """The first saves of the prepared users, each by one connection."""

    checks = Prepared

    def __init__(self, job: Job) -> None:
        self._users = job.users
        mine = shares(job.requests_max, job.connections)
        self._begin = list(itertools.accumulate(mine, initial=job.first))

    def position(self, index: int) -> int:
        """Begin where the share of the connection before ends."""
        return self._begin[index]

    def name(self, position: int) -> str:
        """Return the name of a position."""
        return book.name_of(book.scattered(position, self._users))

    def request(self, position: int) -> bytes:
        """Save a user."""
        return book.save_of(book.scattered(position, self._users))


def _seed(job: Job) -> Script:
    """Lay out saves, counts or both, as they are spelled there; no password occurs twice."""
    load, salt, dialect = job.point.load, job.salt, DIALECTS[job.access.dialect]
    counts = [_is_count(load, index) for index in range(SEED_CIRCLE)]
    requests = [
        dialect.count_request if count else dialect.save_request(f"{salt}-{index:04}-Tr0ub4dor&3")
        for index, count in enumerate(counts)
    ]
    if dialect.saved_reply is None:
        return Circle(job, requests, Lengths, [not count for count in counts])
    expected = [None if count else dialect.saved_reply for count in counts]
    return Circle(job, requests, partial(Counts, dialect.number_in), expected)


def _is_count(load: str, index: int) -> bool:
    if load == "mixed":
        return index % MIXED_COUNT_EVERY == MIXED_COUNT_EVERY - 1
    return load == "count"


def _on_users(
    request: Callable[[int], bytes],
    kind: Callable[[list[bytes]], Replies],
    expected: Callable[[int], bytes],
) -> Callable[[Job], Script]:
    """Return what lays out requests on users that are there, and what each must be answered."""

    def lay_out(job: Job) -> Script:
        users = _drawn(job.salt, job.users)
        return Circle(job, [*map(request, users)], kind, [*map(expected, users)])

    return lay_out


def _list(job: Job) -> Script:
    groups = _drawn(job.salt, book.groups(job.users))
    expected = [
        (b'{"username":"%b' % book.prefix_of(group).encode(), book.members(group, job.users))
        for group in groups
    ]
    return Circle(job, [book.list_request(group) for group in groups], Listings, expected)


def _drawn(salt: str, number: int) -> list[int]:
    """Draw as many of so many users, or groups, as a circle has requests."""
    return random.Random(salt).choices(range(number), k=BOOK_CIRCLE)


_SCRIPTS: dict[str, Callable[[Job], Script]] = {
    "save": _seed,
    "count": _seed,
    "mixed": _seed,
    "named": _on_users(book.save_of, Versions, lambda user: book.saved_start(book.name_of(user))),
    "new": New,
    "get": _on_users(book.get_request, Passwords, book.password_start),
    "verify": _on_users(book.verify_request, Constants, lambda user: book.VERIFIED_REPLY),
    "list": _list,
    PREPARE: Prepare,
}


def script_of(job: Job) -> Script:
    """Write the script of a job."""
    return _SCRIPTS[job.point.load](job)
