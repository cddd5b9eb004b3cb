"""How many guesses were wrong lately, over all workers together, and how long the next must wait.

A table of a fixed size in shared memory, without locks. What is limited (wrong tokens of an
address, wrong passwords of an application, and of an application at an address) has a row, which a
keyed hash finds, so that nobody can choose what shares a row with whom. What shares one by chance
shares its limit. Rows of different kinds are apart: who has no token reaches no application's.

A row is a leaky bucket: its level grows by 1 with each wrong guess and falls by so many a second.
Up to an allowance nobody waits; from there on each guess waits twice as long as the one before.
Where that would be longer than `DELAY_S_MAX` it is refused at once, and not counted. So who goes on
guessing gets as many tries as are forgotten meanwhile, and who stops is forgotten in 15 seconds.

Each worker has two numbers in a row, which the others only read: how often it has charged the row
since the service was started (less refunds), and the lowest value of "all charges, less what was
forgotten since" that it has seen at a charge. With c(t) for the charges of all workers and r for
what is forgotten a second, the level is that of a queue served at a constant rate (Lindley, 1952):

    level(t) = c(t) - r t - min over the charges s so far of (c(s) - r s)

That is exact, whichever worker charged when. The usual form of such a bucket, a deadline that each
charge moves on, would not do with one for each worker: the deadlines pass side by side, and guesses
spread over 8 workers would be forgotten 8 times as fast. Two workers that charge a row in the same
microsecond may each miss the other's charge for that long, and no longer.

Times are seconds of the monotonic clock, which is one for all processes.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from pwserver.shared_memory import SharedArray

ROWS = 4096
"""Rows of each kind. A row is 16 bytes a worker: with two workers the table is 384 KiB. While 100
addresses guess, one of 41 others shares a row with one of them."""

DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What guesses beyond the allowance wait, each at the next level. No more wait at a time."""

DELAY_S_MAX = DELAYS_S[-1]

_ROUNDING = 1e-6
"""What a level may lack of a whole number because times are floating point."""


class Kind(NamedTuple):
    """Something that is limited, and how."""

    number: int  # of its part of the table
    allowance: int  # wrong guesses before any waits
    forgotten_per_s: float


TOKENS = Kind(0, allowance=10, forgotten_per_s=1.0)
"""Wrong tokens of an address: ten are a few instances that still have an old one."""

ADDRESS = Kind(1, allowance=10, forgotten_per_s=1.0)
"""Wrong passwords of an application at an address: one a second is more than people type."""

APPLICATION = Kind(2, allowance=50, forgotten_per_s=5.0)
"""Wrong passwords of an application, wherever from: above what one address reaches (15, and then
one a second), so that one alone cannot have the others refused."""

_KINDS = 3

Key = tuple[Kind, str, str]
"""A kind, an application and an address; either of the two may be empty."""


class GuessTable:
    """The shared table: made by the listener, given to every worker as it is started."""

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
        """Return the limit on what belongs to all of these keys. To be kept by who asks often."""
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
    """What a guess must wait for.

    One that is delayed is charged before it waits, and refunded if it was right, so that many at a
    time are no way around. One that is not delayed is charged if it was wrong.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: "Sequence[_Row]") -> None:
        self._rows = rows

    def delay_s(self, now: float) -> float | None:
        """Return how long the next guess must wait; None where it is refused."""
        longest = 0.0
        for row in self._rows:
            excess = row.level(now) - row.allowance
            if excess >= 0:
                if excess >= len(DELAYS_S):
                    return None
                longest = max(longest, DELAYS_S[int(excess)])
        return longest

    def charge(self, now: float) -> None:
        """Count a wrong guess, or one that may be."""
        for row in self._rows:
            row.charge(now)

    def refund(self) -> None:
        """Take back one charge, because the guess was right."""
        for row in self._rows:
            row.refund()


class _Row:
    """A row of the table, with what this worker may write in it."""

    __slots__ = ("_charges", "_forgotten_per_s", "_lowest", "_own", "allowance")

    def __init__(
        self, kind: Kind, own: int, charges: "memoryview[float]", lowest: "memoryview[float]"
    ) -> None:
        self.allowance = kind.allowance - _ROUNDING
        self._forgotten_per_s = kind.forgotten_per_s
        self._own = own
        self._charges = charges  # one of each worker
        self._lowest = lowest  # one of each worker; 0.0 before its first charge, which is above all

    def level(self, now: float) -> float:
        """Return how many wrong guesses are not forgotten; below 0 where all are."""
        return sum(self._charges) - self._forgotten_per_s * now - min(self._lowest)

    def charge(self, now: float) -> None:
        """Raise the level by 1."""
        drained = sum(self._charges) - self._forgotten_per_s * now
        self._lowest[self._own] = min(self._lowest[self._own], drained)
        self._charges[self._own] += 1

    def refund(self) -> None:
        """Lower the level by 1, or as far as it goes."""
        self._charges[self._own] -= 1


def _network(address: str) -> str:
    """Return what an address counts as: IPv6 by its /64, which is what one customer is given."""
    try:
        parsed = ip_address(address)
    except ValueError:  # of a Unix socket
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
