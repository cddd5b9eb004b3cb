"""A semaphore that serves waiting threads in the order in which they came.

It is made for threads that are interrupted. An exception of a signal handler, or one that another
thread raises in this one, may come between any two bytecodes, also within a `finally`. So there is
no lock that could stay locked, and no counter that could miss a step. The line is a set: one
operation adds a place to it, and one removes it. The set has weak references to the turns: if even
the last operation is interrupted, the turn leaves the line when the call that had it is gone.
"""

import itertools
import operator
import queue
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_LOOK_AGAIN_S = 0.1
"""A waiting thread looks again after this time, because the thread that would wake it may have been
interrupted."""


T = TypeVar("T")


class Held(weakref.ref[T]):
    """A weak reference in a set, which removes itself by `set.discard` when its object is gone.

    It is equal only to itself, so the set finds it even after its object is gone.
    """

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _Turn:
    """What a call refers to while it is in the line."""

    __slots__ = ("__weakref__",)


class _Place(Held[_Turn]):
    """A place in the line, and the queue that wakes its thread. It is gone when its turn is."""

    __slots__ = ("number", "woken")
    number: int
    woken: "queue.SimpleQueue[None]"


class FairSemaphore:
    """A line of threads; the first `at_once` of them have their turn."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._numbers = itertools.count()
        self._line: set[_Place] = set()

    def take(self, do: Callable[[], None], seconds: float) -> bool:
        """Call `do` when it is this thread's turn; return False if that takes more than `seconds`.

        The `finally` begins with the one call that matters: Python checks for interrupts after a
        call, so none comes between the last call before it and this one.
        """
        turn = _Turn()
        place = _Place(turn, self._line.discard)
        place.number, place.woken = next(self._numbers), queue.SimpleQueue()
        try:
            self._line.add(place)
            if not self._wait(place, seconds):
                return False
            do()
            return True
        finally:
            self._line.discard(place)
            self._wake_next()

    def _wait(self, place: _Place, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while place not in self._first():
            left = until - time.monotonic()
            if left <= 0:
                return False
            with suppress(queue.Empty):
                place.woken.get(timeout=min(left, _LOOK_AGAIN_S))
        return True

    def _first(self) -> list[_Place]:
        """Return the places whose turn it is, in their order."""
        return sorted(self._line.copy(), key=_number)[: self._at_once]

    def _wake_next(self) -> None:
        """Wake the last of those whose turn it is: its turn may have just come."""
        first = self._first()
        if len(first) == self._at_once:
            first[-1].woken.put(None)


_number = operator.attrgetter("number")
