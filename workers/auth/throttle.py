"""Counts recent wrong guesses over all workers, and says how long the next guess must wait.

The counts are in a table of fixed size in shared memory, without locks. Each limit (wrong tokens of
an address, wrong passwords of an application, and of an application at an address) has a row. A
keyed hash finds the row, so nobody can choose which limits share one; limits that share a row by
chance count together. Rows of different kinds are separate, so a client without a token cannot
reach an application's row.

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

import os
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from pwserver.shared_memory import SharedArray

ROWS = 4096
"""Rows of each kind. A row is 16 bytes a worker: with two workers the table is 384 KiB. While 100
addresses guess, one of 41 other addresses shares a row with one of them."""

DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How long the first, second, ... guess beyond the allowance waits. More are refused."""

DELAY_S_MAX = DELAYS_S[-1]

_ROUNDING = 1e-6
"""By how much a level may be below a whole number, because times are floating point."""


class Kind(NamedTuple):
    """A kind of limit."""

    number: int  # the index of its part of the table
    allowance: int  # wrong guesses before the first delay
    forgotten_per_s: float


TOKENS = Kind(0, allowance=10, forgotten_per_s=1.0)
"""Wrong tokens of an address. Ten are a few application instances that still have an old token."""

ADDRESS = Kind(1, allowance=10, forgotten_per_s=1.0)
"""Wrong passwords of an application at an address. People type less than one a second."""

APPLICATION = Kind(2, allowance=50, forgotten_per_s=5.0)
"""Wrong passwords of an application from all addresses. More than one address reaches (15, and then
one a second), so that one address alone cannot get the others refused."""

_KINDS = 3

Key = tuple[Kind, str, str]
"""A kind, an application and an address; either of the two may be empty."""


class GuessTable:
    """The shared table. The listener makes it and passes it to every worker at its start."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seed = os.urandom(16)
        self.array = SharedArray("d", _KINDS * ROWS * 2 * workers)


class Throttle:
    """The table as one worker uses it; `worker` is its number, 1 and up."""

    def __init__(self, table: GuessTable, worker: int) -> None:
        self._workers = table.workers
        self._own = worker - 1
        self._seed = table.seed
        self._numbers = table.array.numbers

    def limit(self, *keys: Key) -> "Limit":
        """Return the limit that applies all of these keys. Keep it if you need it often."""
        return Limit([self._row(*key) for key in keys])

    def _row(self, kind: Kind, application: str, address: str) -> "_Row":
        name = f"{len(application)} {application}{_network(address)}"
        data = name.encode("utf-8", "surrogatepass")
        digest = blake2b(data, digest_size=8, key=self._seed).digest()
        row = kind.number * ROWS + int.from_bytes(digest, "little") % ROWS
        begin = 2 * self._workers * row
        middle, end = begin + self._workers, begin + 2 * self._workers
        return _Row(kind, self._own, self._numbers[begin:middle], self._numbers[middle:end])


class Limit:
    """The rows that limit a guess.

    A delayed guess is charged before it waits, and refunded if it was right, so that many guesses
    at once do not evade the limit. A guess that is not delayed is charged if it was wrong.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: "Sequence[_Row]") -> None:
        self._rows = rows

    def delay_s(self, now: float) -> float | None:
        """Return how many seconds the next guess must wait; None if it is refused."""
        longest = 0.0
        for row in self._rows:
            excess = row.level(now) - row.allowance
            if excess >= 0:
                if excess >= len(DELAYS_S):
                    return None
                longest = max(longest, DELAYS_S[int(excess)])
        return longest

    def charge(self, now: float) -> None:
        """Count a guess that is wrong, or that may be wrong."""
        for row in self._rows:
            row.charge(now)

    def refund(self) -> None:
        """Take back one charge, because the guess was right."""
        for row in self._rows:
            row.refund()


class _Row:
    """A row of the table, and the index of this worker's own numbers in it."""

    __slots__ = ("_charges", "_forgotten_per_s", "_lowest", "_own", "allowance")

    def __init__(
        self, kind: Kind, own: int, charges: "memoryview[float]", lowest: "memoryview[float]"
    ) -> None:
        self.allowance = kind.allowance - _ROUNDING
        self._forgotten_per_s = kind.forgotten_per_s
        self._own = own
        self._charges = charges  # one number for each worker
        self._lowest = lowest  # likewise; 0.0, above all real values, before its first charge

    def level(self, now: float) -> float:
        """Return how many wrong guesses are not forgotten yet; below 0 if all are forgotten."""
        return sum(self._charges) - self._forgotten_per_s * now - min(self._lowest)

    def charge(self, now: float) -> None:
        """Raise the level by 1."""
        drained = sum(self._charges) - self._forgotten_per_s * now
        self._lowest[self._own] = min(self._lowest[self._own], drained)
        self._charges[self._own] += 1

    def refund(self) -> None:
        """Take back one charge, which lowers the level by up to 1."""
        self._charges[self._own] -= 1


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
