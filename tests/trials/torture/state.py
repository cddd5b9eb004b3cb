"""What load and faults share: where the service is, who may be let in, and what it has promised.

Every exchange with the service passes through here. So the faults can hold the load, for a moment
in which nothing is under way and the book can be looked at, and can change the book for another one
at an instant that every exchange is clearly before or behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tests.trials.report import TrialFailed
from tests.trials.torture.ledger import Ledger

T = TypeVar("T")

HOLD_TIMEOUT_S = 60.0
"""Longer than any exchange may take that is not left hanging."""


class Over(Exception):
    """The run ends."""


@dataclass
class State:
    """The service as the load sees it, and the ledger of its book.

    broken   promises that the load saw broken, in words
    canary   what every password begins with
    """

    port: int
    canary: str
    broken: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    ledger: Ledger = field(default_factory=Ledger)
    book_since_s: float = 0.0
    over: bool = False
    _condition: threading.Condition = field(default_factory=threading.Condition)
    _held: bool = False
    _under_way: int = 0

    @contextmanager
    def exchange(self, begin: Callable[[Ledger], T]) -> Iterator[T]:
        """Begin an exchange, when the load is not held, and give what `begin` made of the ledger.

        Raises `Over` at the end of the run.
        """
        with self._condition:
            self._condition.wait_for(lambda: not self._held or self.over)
            if self.over:
                raise Over
            begun = begin(self.ledger)
            self._under_way += 1
        try:
            yield begun
        finally:
            with self._condition:
                self._under_way -= 1
                self._condition.notify_all()

    def hold(self) -> None:
        """Let no exchange begin, and wait until none is under way."""
        with self._condition:
            self._held = True
            if not self._condition.wait_for(lambda: not self._under_way, HOLD_TIMEOUT_S):
                raise TrialFailed("a client was left hanging: its request was never answered")

    def release(self) -> None:
        """Let the load go on."""
        with self._condition:
            self._held = False
            self._condition.notify_all()

    def finish(self) -> None:
        """End the load."""
        with self._condition:
            self.over = True
            self._condition.notify_all()

    def remove_book(self, remove: Callable[[], None]) -> None:
        """Remove the book at an instant at which no exchange begins."""
        with self._condition:
            fresh = self.ledger.after_removal()
            remove()
            self.ledger = fresh
            self.book_since_s = time.monotonic()
