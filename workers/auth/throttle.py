"""Counts recent wrong guesses over all workers, and says how long the next guess must wait.

The counts are in a table of fixed size in shared memory, without locks. Each kind of limit has
`PARTS` parts of the table of its own, so a client without a token cannot reach the rows of names.
A key (an address; an application; an application and a name in its book) has a row in each part. A
keyed hash finds the rows, so nobody can choose whose row is shared. Wrong guesses count in all rows
of a key. Keys that share a row by chance count together there, so a row may count too many and
never too few, and the lowest of a key's rows is the best estimate: a count-min sketch (G. Cormode
and S. Muthukrishnan, "An Improved Data Stream Summary", 2005). A key is held up by others only if
these share all its rows.

A row is a leaky bucket: its level grows by 1 with each wrong guess and falls at a constant rate. Up
to an allowance no guess waits; beyond it, each guess waits twice as long as the one before. A guess
that would wait longer than `DELAY_S_MAX` is refused at once and not counted. So a client that goes
on guessing gets as many tries as are forgotten meanwhile, and one that stops is forgotten in 15
seconds.

Each worker has two numbers in a row, which the others only read: its number of charges since the
service was started (less refunds), and the lowest value of "charges of all workers, less what was
forgotten" that it has seen at a charge. With c(t) for the charges of all workers and r for the
number forgotten a second, the level is that of a queue served at a constant rate (Lindley, 1952):

    level(t) = c(t) - r t - min over the charges s so far of (c(s) - r s)

This is exact, whichever worker charged when. The usual bucket, a deadline that each charge moves
on, does not work with one deadline for each worker: all deadlines pass at the same time, so guesses
spread over 8 workers would be forgotten 8 times as fast. Two workers that charge a row in the same
microsecond may miss each other's charge, but only for that long.

Times are in seconds of the monotonic clock, which all processes share.
"""

import functools
import os
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from pwserver.memory import SharedArray

PARTS = 3
ROWS = 4096
"""Parts of each kind, and rows of each part. A row is 16 bytes a worker: with two workers the table
is 1.1 MiB. While 100 keys are guessed at, one of 41 others shares a row of one part with one of
them, and one of 70,000 shares its rows of all parts."""

DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How long the first, second, ... guess beyond the allowance waits. More are refused."""

DELAY_S_MAX = DELAYS_S[-1]

_ROUNDING = 1e-6
"""By how much a level may be below a whole number, because times are floating point."""


class Kind(NamedTuple):
    """A kind of limit."""

    number: int  # the index of its parts of the table
    allowance: int  # wrong guesses before the first delay
    forgotten_per_s: float


TOKENS = Kind(0, allowance=10, forgotten_per_s=1.0)
"""Wrong tokens of an address. Ten are a few application instances that still have an old token."""

NAME = Kind(1, allowance=10, forgotten_per_s=1.0)
"""Wrong passwords of an application for one name, whether there is such a user or not. People type
less than one a second."""

APPLICATION = Kind(2, allowance=1000, forgotten_per_s=100.0)
"""Wrong passwords of an application for all names together. It bounds how fast one password is
tried on many names, and how many names' rows one application can fill: 67 at once, and 100 if it
goes on. Its users mistype less than that, while fewer than 1,000 of them sign in each second."""

_KINDS = 3

_BUCKETS_CACHED = 1024
"""Of each worker, half a kilobyte each: those that were asked for last. Most guesses are at few
names, and to find a key's rows takes longer than to look at them."""

Key = tuple[Kind, str, str]
"""A kind, an application, and an address or a name; either of the two may be empty."""


class GuessTable:
    """The shared table. The listener makes it and passes it to every worker at its start."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seed = os.urandom(16)
        self.array = SharedArray("d", _KINDS * PARTS * ROWS * 2 * workers)


class Throttle:
    """The table as one worker uses it; `worker` is its number, 1 and up."""

    def __init__(self, table: GuessTable, worker: int) -> None:
        self._workers = table.workers
        self._own = worker - 1
        self._seed = table.seed
        self._numbers = table.array.numbers
        self._bucket = functools.lru_cache(maxsize=_BUCKETS_CACHED)(self._new_bucket)

    def limit(self, *keys: Key) -> "Limit":
        """Return the limit that applies all of these keys."""
        return Limit([self._bucket(*key) for key in keys])

    def _new_bucket(self, kind: Kind, application: str, whose: str) -> "_Bucket":
        if kind is TOKENS:
            whose = _network(whose)
        data = f"{len(application)} {application}{whose}".encode("utf-8", "surrogatepass")
        hashed = int.from_bytes(blake2b(data, digest_size=8, key=self._seed).digest(), "little")
        rows = []
        for part in range(kind.number * PARTS, (kind.number + 1) * PARTS):
            hashed, row = divmod(hashed, ROWS)
            rows.append(part * ROWS + row)
        return _Bucket(kind, self._numbers, rows, self._workers, self._own)


class Limit:
    """The buckets that limit a guess.

    A delayed guess is charged before it waits, and refunded if it was right, so that many guesses
    at once do not evade the limit. A guess that is not delayed is charged if it was wrong.
    """

    __slots__ = ("_buckets",)

    def __init__(self, buckets: "Sequence[_Bucket]") -> None:
        self._buckets = buckets

    def delay_s(self, now: float) -> float | None:
        """Return how many seconds the next guess must wait; None if it is refused."""
        longest = 0.0
        for bucket in self._buckets:
            excess = bucket.excess(now)
            if excess >= 0:
                if excess >= len(DELAYS_S):
                    return None
                longest = max(longest, DELAYS_S[int(excess)])
        return longest

    def charge(self, now: float) -> None:
        """Count a guess that is wrong, or that may be wrong."""
        for bucket in self._buckets:
            bucket.charge(now)

    def refund(self) -> None:
        """Take back one charge, because the guess was right."""
        for bucket in self._buckets:
            bucket.refund()


class _Bucket:
    """A key's rows of the table, and the index of this worker's own numbers in each.

    In a row, the number of charges of each worker comes first, then the lowest value that each has
    seen: 0.0, above all real values, before its first charge.
    """

    __slots__ = ("_allowance", "_forgotten_per_s", "_numbers", "_own", "_rows")

    def __init__(
        self, kind: Kind, numbers: "memoryview[float]", rows: list[int], workers: int, own: int
    ) -> None:
        self._allowance = kind.allowance - _ROUNDING
        self._forgotten_per_s = kind.forgotten_per_s
        self._numbers = numbers
        begins = [2 * workers * row for row in rows]
        # Of each row: where its charges begin, where its lowest values begin, and its end.
        self._rows = [(begin, begin + workers, begin + 2 * workers) for begin in begins]
        self._own = own

    def excess(self, now: float) -> float:
        """Return how many wrong guesses beyond the allowance are not forgotten yet.

        It is below 0 if there are fewer than the allowance. Rows that make no difference then are
        not looked at.
        """
        least, numbers = float("inf"), self._numbers
        drained = self._forgotten_per_s * now + self._allowance
        for charges, lowest, end in self._rows:
            least = min(least, sum(numbers[charges:lowest]) - drained - min(numbers[lowest:end]))
            if least < 0:
                break
        return least

    def charge(self, now: float) -> None:
        """Raise the level by 1."""
        numbers = self._numbers
        for charges, lowest, _ in self._rows:
            drained = sum(numbers[charges:lowest]) - self._forgotten_per_s * now
            numbers[lowest + self._own] = min(numbers[lowest + self._own], drained)
            numbers[charges + self._own] += 1

    def refund(self) -> None:
        """Take back one charge, which lowers the level by up to 1."""
        for charges, _, _ in self._rows:
            self._numbers[charges + self._own] -= 1


def _network(address: str) -> str:
    """Return the network that an address counts for: the /64 of IPv6, as one customer has it."""
    try:
        parsed = ip_address(address)
    except ValueError:  # of a Unix socket
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
