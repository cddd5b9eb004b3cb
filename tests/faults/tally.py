"""Clients that save while something goes wrong: what they were told, and what is there then."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from tests.faults.canary import SAVE
from tests.support.harness import Peer, Service
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


class Savers:
    """Clients that save one password after another, on new connections where one has ended."""

    def __init__(self, service: Service, clients: int) -> None:
        self._service = service
        self._stop = threading.Event()
        self._tallies = [Tally() for _ in range(clients)]
        self._threads = [
            threading.Thread(target=self._save, args=(each,)) for each in self._tallies
        ]

    def _save(self, tally: Tally) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), self._service.peer() as peer:
                while not self._stop.is_set():
                    tally.save(peer)

    @property
    def tally(self) -> Tally:
        """What all of them were told so far."""
        return sum(self._tallies, Tally())

    def start(self) -> None:
        """Begin to save."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until the last answers have come."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def saving(service: Service, clients: int) -> Iterator[Savers]:
    """Have so many clients save in the meantime."""
    savers = Savers(service, clients)
    savers.start()
    try:
        yield savers
    finally:
        savers.stop()


def users_in(database: Path) -> int:
    """Check a database that nobody uses, to the last version; return how many users are in it."""
    with contextlib.closing(apsw.Connection(str(database))) as connection:
        assert connection.pragma("integrity_check") == "ok"
        for (older,) in connection.execute("SELECT older FROM user"):
            unpack(older)
        return int(connection.execute("SELECT count(*) FROM user").get)
