"""Replies that are held back, because who asks has guessed wrong too often.

Each waits on its own: other connections, and other requests that need no order, go on. What is to
be found out is found out when the time has come, not before, so that the delay says nothing.
"""

import heapq
import itertools
from collections.abc import Callable

from pwserver import protocol
from pwserver.errors import Unavailable
from pwserver.protocol import Id
from workers.batches import Waiter
from workers.lines import refusal_of


class Delayed:
    """A reply that comes later; `reply` is there then."""

    def __init__(self, waiter: Waiter, id: Id, answer: Callable[[], bytes]) -> None:
        self.waiter = waiter
        self.reply: bytes | None = None
        self._id = id
        self._answer = answer

    def replies(self) -> list[bytes] | None:
        """Return the reply, or None as long as there is none."""
        return None if self.reply is None else [self.reply]

    def answer(self) -> None:
        """Find out what the reply is."""
        try:
            self.reply = self._answer()
        except Exception as error:
            self.reply = protocol.refusal(refusal_of(error), self._id)

    def give_up(self) -> None:
        """Say that nobody will find it out."""
        self.reply = protocol.refusal(Unavailable("The service is stopping."), self._id)


class Delays:
    """The replies of one worker that are held back."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Delayed]] = []
        self._numbers = itertools.count()
        self._ended = False

    def add(self, waiter: Waiter, id: Id, due: float, answer: Callable[[], bytes]) -> Delayed:
        """Hold a reply back until a moment of the monotonic clock, or a little longer."""
        delayed = Delayed(waiter, id, answer)
        if self._ended:
            delayed.give_up()
            return delayed
        heapq.heappush(self._queue, (due, next(self._numbers), delayed))
        return delayed

    def expire(self, now: float) -> list[Waiter]:
        """Answer what is due; return who has a reply now."""
        answered: list[Waiter] = []
        while self._queue and self._queue[0][0] <= now:
            delayed = heapq.heappop(self._queue)[2]
            delayed.answer()
            answered.append(delayed.waiter)
        return answered

    def end(self) -> list[Waiter]:
        """Give up what is held back, and whatever is to be from now on; return who has a reply now.

        So a stop does not wait for those who guess, and they learn nothing by it.
        """
        self._ended = True
        given_up = [delayed for _, _, delayed in self._queue]
        self._queue.clear()
        for delayed in given_up:
            delayed.give_up()
        return [delayed.waiter for delayed in given_up]
