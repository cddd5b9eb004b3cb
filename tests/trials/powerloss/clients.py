"""Clients that save, label, delete and read, and keep the ledger: guests, and an application.

All of them send before the first one reads, so that what they ask for is under way together, and is
committed in groups, as it is in real life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.support.harness import Peer
from tests.trials.powerloss.ledger import Ledger, Request
from tests.trials.report import TrialFailed

NAMES = 6
"""That each client uses."""

BURST_MAX = 4
SHORT, LONG = (8, 40), (2000, 4096)
"""Lengths of passwords: many to a page of the database, and one or two pages each."""

LONG_SHARE = 0.05


class Client:
    """A client on one connection; one with a token uses names of its own."""

    def __init__(self, port: int, token: str, ledger: Ledger, random: Random) -> None:
        self._peer = Peer(port)
        if token:
            self._peer.authenticate(token)
        self._port = int(self._peer.socket.getsockname()[1])
        self._ledger = ledger
        self._random = random
        self._is_known = bool(token)
        self._awaited: list[Request] = []
        ledger.begin(self._port, is_authenticated=self._is_known)

    def send(self, *requests: Request) -> None:
        """Send requests in one burst."""
        self._peer.send(*(self._ledger.note(self._port, request) for request in requests))
        self._awaited += requests

    def hear(self) -> None:
        """Take all replies; raise where one is not what it must be."""
        for request in self._awaited:
            reply = self._peer.reply()
            if reply["message"] != request.reply:
                raise TrialFailed(f"{request.message['message']} was answered {reply}")
        self._awaited.clear()

    def work(self) -> None:
        """Send a burst of whatever comes to mind."""
        for _ in range(self._random.randint(1, BURST_MAX)):
            self.send(self._named() if self._is_known else self._ledger.save(self._length()))

    def save(self, length: int) -> None:
        """Save a password of some length, and wait for the answer."""
        self.send(self._ledger.save(length))
        self.hear()

    def close(self) -> None:
        """Close the connection."""
        self._peer.close()

    def _named(self) -> Request:
        name = f"{self._port}-{self._random.randrange(NAMES)}"
        ledger = self._ledger
        if not ledger.knows(name):
            return ledger.save_named(name, self._length())
        others: Sequence[Callable[[], Request]] = (
            lambda: ledger.save(self._length()),
            lambda: ledger.get(name),
            lambda: ledger.label(name, f"label {self._random.randrange(1000)}"),
            lambda: ledger.delete(name),
        )
        if self._random.random() < 0.5:
            return ledger.save_named(name, self._length())
        return self._random.choice(others)()

    def _length(self) -> int:
        return self._random.randint(*(LONG if self._random.random() < LONG_SHARE else SHORT))


class Clients:
    """Guests, and connections of the application that may do everything in a book of its own."""

    def __init__(
        self, port: int, token: str, ledger: Ledger, random: Random, *, each: int = 3
    ) -> None:
        tokens = [""] * each + ([token] * each if token else [])
        self.clients = [Client(port, each, ledger, random) for each in tokens]

    def work(self, rounds: int = 1) -> None:
        """Have all of them send at once, and then hear; so many times."""
        for _ in range(rounds):
            for client in self.clients:
                client.work()
            for client in self.clients:
                client.hear()

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()
