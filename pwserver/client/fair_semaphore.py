"""So many may do something at once; the others wait in line, first come, first served.

Made for threads that are interrupted: an exception of a signal handler, or one that another thread
raises in this one, may come between any two steps, also within a `finally`. So there is no lock to
leave locked, and no number that would be wrong if one of two steps were missing. Who is in line is
in a set; one step puts it there, and one takes it out. The set refers to a turn weakly: if even the
last step is interrupted, the turn leaves the line when the call that had it is gone.
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
"""How long somebody waits to be called at the most, because who would call may be interrupted."""


T = TypeVar("T")


class Held(weakref.ref[T]):
    """A weak reference that a set holds, and that leaves it by `set.discard` when its object goes.

    It is equal to itself alone, and so can be looked for when its object is gone already.
    """

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _Turn:
    """What a call has as long as it is in line."""

    __slots__ = ("__weakref__",)


class _Place(Held[_Turn]):
    """A place in the line, and what is heard there. It is gone when its turn is."""

    __slots__ = ("called", "number")
    number: int
    called: "queue.SimpleQueue[None]"


class FairSemaphore:
    """A line of threads, the first `at_once` of which have a turn."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._numbers = itertools.count()
        self._line: set[_Place] = set()

    def take(self, do: Callable[[], None], seconds: float) -> bool:
        """Do something in turn; return whether the turn came within so many seconds.

        `finally` begins with the one step that matters: Python looks for interrupts behind a call,
        so none comes between the last one before it and this one.
        """
        turn = _Turn()
        place = _Place(turn, self._line.discard)
        place.number, place.called = next(self._numbers), queue.SimpleQueue()
        try:
            self._line.add(place)
            if not self._wait(place, seconds):
                return False
            do()
            return True
        finally:
            self._line.discard(place)
            self._call_next()

    def _wait(self, place: _Place, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while place not in self._first():
            left = until - time.monotonic()
            if left <= 0:
                return False
            with suppress(queue.Empty):
                place.called.get(timeout=min(left, _LOOK_AGAIN_S))
        return True

    def _first(self) -> list[_Place]:
        """Return the places that have a turn, in their order."""
        return sorted(self._line.copy(), key=_number)[: self._at_once]

    def _call_next(self) -> None:
        """Tell the last of those who have a turn: it may have just come to it."""
        first = self._first()
        if len(first) == self._at_once:
            first[-1].called.put(None)


_number = operator.attrgetter("number")
