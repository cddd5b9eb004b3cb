"""Clients that save while something goes wrong: what they were told, and what is there then."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw

from tests.faults.canary import SAVE
from tests.support.harness import Peer, Service, meanwhile
from workers.book.history import unpack


@dataclass
class Tally:
    """How many saves were answered in which way."""

    saved: int = 0
    unknown: int = 0  # no reply came, or it said that nobody knows
    refused: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.saved + other.saved, self.unknown + other.unknown, self.refused + other.refused
        )

    def save(self, peer: Peer) -> None:
        """Save once and note the answer; raise OSError where the connection has ended."""
        try:
            peer.send(SAVE)
            line = peer.line()
            if not line:
                raise ConnectionResetError
        except OSError:
            self.unknown += 1
            raise
        self.saved += b'"Password saved!"' in line
        self.unknown += b'"Unavailable!"' in line
        self.refused += b'"Not saved!"' in line

    def accounts_for(self, users: int) -> bool:
        """Tell whether so many users are what was acknowledged, and no more than may have been."""
        return self.saved <= users <= self.saved + self.unknown


@dataclass(frozen=True)
class Savers:
    """Clients that save one password after another, on new connections where one has ended."""

    tallies: list[Tally]

    @property
    def tally(self) -> Tally:
        """What all of them were told so far."""
        return sum(self.tallies, Tally())


def _save(service: Service, tally: Tally, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), service.peer() as peer:
            while not over.is_set():
                tally.save(peer)


@contextlib.contextmanager
def saving(service: Service, clients: int) -> Iterator[Savers]:
    """Have so many clients save in the meantime."""
    savers = Savers([Tally() for _ in range(clients)])
    with meanwhile(*(partial(_save, service, tally) for tally in savers.tallies)):
        yield savers


def users_in(database: Path) -> int:
    """Check a database that nobody uses, to the last version; return how many users are in it."""
    with contextlib.closing(apsw.Connection(str(database))) as connection:
        assert connection.pragma("integrity_check") == "ok"
        for (older,) in connection.execute("SELECT older FROM user"):
            unpack(older)
        return int(connection.execute("SELECT count(*) FROM user").get)
