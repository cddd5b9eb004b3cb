"""Who asks something of the service all the time: guests, and what all such sources are.

A thread each. Guests send the basic contract's saves over plain sockets, alone and in bursts, and
know of every reply which save it is for. `applications` has those with a token and a book of their
own.
"""

from __future__ import annotations

import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pwserver.errors import PwserverError
from tests.support.harness import Peer
from tests.trials.torture.ledger import Ledger, password_of
from tests.trials.torture.state import Over, State

HOST = "127.0.0.1"
ANSWER_TIMEOUT_S = 20.0
"""A request that is not answered for as long, nor its connection closed, was left hanging."""

PAUSE_S = 0.02
"""Before something that failed is tried again."""

BURSTS = (1, 1, 1, 2, 5, 20, 50)
OTHERS_SHARE = 0.03
OTHERS = {
    "number_of_users": "return_number_of_users",
    "generate_password": "return_generated_password",
    "ping": "Alive!",
    "no such message": "Invalid message!",
}
"""What guests ask between their saves, and what the answers are called."""


@dataclass
class Counts:
    """What one source has seen of its saves and other changes, and how often it has read."""

    saved: int = 0
    refused: int = 0
    unknown: int = 0
    read: int = 0


class Source(ABC, threading.Thread):
    """One who uses the service until the run is over, with so many saves a second."""

    def __init__(self, name: str, state: State, saves_per_s: float, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.counts = Counts()
        self._state = state
        self._saves_per_s = saves_per_s
        self._random = random.Random(f"{seed} {name}")

    def run(self) -> None:
        """Use the service, and come back whenever that failed."""
        while not self._state.over:
            try:
                self.use()
            except (OSError, PwserverError):
                time.sleep(PAUSE_S)
            except Over:
                return
            except Exception as error:  # else there would be less load, and nobody would know
                self.broken(f"the load failed: {type(error).__name__}: {error}")
                raise

    @abstractmethod
    def use(self) -> None:
        """Use the service until something fails."""

    def broken(self, text: str) -> None:
        """Note a broken promise."""
        self._state.broken.append(f"{self.name}: {text}")

    def pace(self, saves: int) -> None:
        """Wait for as long as so many saves are to take."""
        time.sleep(self._random.uniform(0.5, 1.5) * saves / self._saves_per_s)


class Guest(Source):
    """Who has no token: saves without a name, one by one and in bursts."""

    def use(self) -> None:
        """Save over one connection until that ends."""
        with Peer(self._state.port) as peer:
            peer.socket.settimeout(ANSWER_TIMEOUT_S)
            while True:
                size = self._random.choice(BURSTS)
                with self._state.exchange(partial(self._begin, size)) as (ledger, numbers):
                    requests = list(self._requests(numbers))
                    peer.send(*requests)
                    for request in requests:
                        try:
                            line = peer.line()
                        except TimeoutError:
                            self.broken("a request was left hanging")
                            raise
                        if not line.endswith(b"\n"):
                            raise ConnectionResetError
                        self._take(ledger, request, json.loads(line))
                self.pace(size)

    def _begin(self, size: int, ledger: Ledger) -> tuple[Ledger, range]:
        self.counts.unknown += size  # until they are answered
        return ledger, ledger.source(self.name).begin(size)

    def _requests(self, numbers: range) -> Iterator[dict[str, str | int]]:
        for number in numbers:
            password = password_of(self._state.canary, self.name, number)
            yield {"message": "save_password", "password": password, "id": number}
            if self._random.random() < OTHERS_SHARE:
                yield {"message": self._random.choice([*OTHERS])}

    def _take(
        self, ledger: Ledger, request: dict[str, str | int], reply: dict[str, str | int]
    ) -> None:
        """Note what a reply says of its request."""
        message, asked = reply["message"], str(request["message"])
        if reply.get("id") != request.get("id"):
            self.broken("a reply is to another request")
        elif message == "Unavailable!":
            pass
        elif asked in OTHERS:
            self.counts.read += 1
            if message != OTHERS[asked]:
                self.broken(f"{asked!r} was answered {message!r}")
        elif message == "Password saved!":
            ledger.source(self.name).saved(int(request["id"]))
            self.counts.saved += 1
            self.counts.unknown -= 1
        elif message == "Not saved!":
            ledger.source(self.name).refused(int(request["id"]))
            self.counts.refused += 1
            self.counts.unknown -= 1
        else:
            self.broken(f"a save was answered {message!r}")
