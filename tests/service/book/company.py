"""A service that dies and is started again, and applications with connections to each worker."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pwserver.wire.messages import RIGHTS
from tests.support.books_wire import peers_at
from tests.support.harness import Peer, Service

COMMON, OWN = 2, 2
"""Applications of a company that share the common book, and that have one of their own."""

COMPANIES = 70
"""As many as there are examples, or a few more; with a database on a server, a third of both."""

WORKERS = ("worker 1", "worker 2")


class Seat(NamedTuple):
    """A connection, and what it is for: an application's number in its company, and its book's."""

    application: int
    book: int
    peer: Peer


class Premises:
    """A service that is stopped, killed and started, and companies that use it one after the other.

    Each company's applications have books that nobody used before, and no wrong guesses yet.
    """

    def __init__(self, folder: Path, *flags: str, url: str = "") -> None:
        self._folder, self._flags, self._url = folder, flags, url
        self._tokens: list[str] = []
        self.seats: list[Seat] = []
        self._connections = contextlib.ExitStack()
        self.service = self._start()
        try:
            self._companies = itertools.cycle(self._registered())
            self._connect()
        except BaseException:
            self.service.kill_everything()
            raise

    def _registered(self) -> list[list[str]]:
        """Return the tokens of each company's applications."""
        with self.service.administration() as files:
            return [
                [
                    files.add(f"{number} {place}", RIGHTS, common=place < COMMON).reveal()
                    for place in range(COMMON + OWN)
                ]
                for number in range(COMPANIES // 3 if self._url else COMPANIES)
            ]

    def _start(self) -> Service:
        return Service(self._folder, *self._flags, url=self._url).wait_until_listening()

    def _connect(self) -> None:
        """Give each application a connection to each worker."""
        self._connections.close()
        self.seats = [
            Seat(place, max(0, place - COMMON + 1), peer)
            for worker in WORKERS
            for place, peer in enumerate(
                self._connections.enter_context(peers_at(self.service, worker, COMMON + OWN))
            )
        ]

    def move_in(self) -> None:
        """Let the next company have the connections."""
        self._tokens = next(self._companies)
        self._authenticate()

    def _authenticate(self) -> None:
        for seat in self.seats:
            reply = seat.peer.authenticate(self._tokens[seat.application])
            assert reply["message"] == "Authenticated!"

    # --- What happens to the service. ---

    def stop_and_start(self) -> None:
        """Stop the service as an operator does, and start it again."""
        self._connections.close()  # else the service would wait a second for that
        self.close()
        self._start_again()

    def kill_and_start(self) -> None:
        """Kill every process, and start the service again."""
        self.service.kill_everything()
        self._start_again()

    def _start_again(self) -> None:
        self.service = self._start()
        self._connect()
        self._authenticate()

    def kill_worker(self) -> None:
        """Kill a worker; its clients connect again."""
        self._kill("worker 2")

    def kill_writer(self) -> None:
        """Kill the worker that writes; its clients connect again."""
        self._kill("worker 1")

    def _kill(self, worker: str) -> None:
        self.service.replace(worker)
        self._connect()
        self._authenticate()

    def close(self) -> None:
        """Stop the service; it must end well."""
        assert self.service.stop() == 0
        self.service.end()


@contextlib.contextmanager
def premises(folder: Path, *flags: str, url: str = "") -> Iterator[Premises]:
    """Yield a running service with its applications, and stop it."""
    made = Premises(folder, *flags, url=url)
    try:
        yield made
        made.close()
    finally:
        made.service.kill_everything()
        for seat in made.seats:
            seat.peer.close()
