"""Replies that are held back, because who asks has guessed wrong too often.

Each waits on its own: other connections, and other requests that need no order, go on. What a reply
says is found out in its request's turn, so that it sees the requests before it and none of those
behind. When it leaves does not depend on what it says, so the delay says nothing.
"""

import heapq
import itertools
from collections.abc import Callable

from pwserver.errors import Unavailable
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Awaited, Waiter


class Delayed(Awaited):
    """A `reply` that comes later."""

    def __init__(
        self, waiter: Waiter, id: Id, reply: bytes, then: Callable[[], None] | None
    ) -> None:
        super().__init__()
        self.waiter = waiter
        self._held_back = Awaited(reply)
        self._id = id
        self._then = then

    def withhold(self) -> None:
        """Refuse instead, now or when it is due."""
        super().withhold()
        self._held_back.withhold()

    def release(self) -> None:
        """Let the reply go."""
        self.reply = self._held_back.reply
        if self._then is not None:
            self._then()

    def give_up(self) -> None:
        """Let go without saying what was found out."""
        self.reply = messages.refusal(Unavailable("The service is stopping."), self._id)


class Delays:
    """The replies of one worker that are held back."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Delayed]] = []
        self._numbers = itertools.count()
        self._ended = False

    def add(
        self,
        waiter: Waiter,
        id: Id,
        reply: bytes,
        due: float,
        then: Callable[[], None] | None = None,
    ) -> Delayed:
        """Hold a reply back until a moment of the monotonic clock, or a little longer.

        `then` is done when it leaves, not before: what it does may be seen from outside.
        """
        delayed = Delayed(waiter, id, reply, then)
        if self._ended:
            delayed.give_up()
            return delayed
        heapq.heappush(self._queue, (due, next(self._numbers), delayed))
        return delayed

    def expire(self, now: float) -> list[Waiter]:
        """Let go what is due; return who has a reply now."""
        answered: list[Waiter] = []
        while self._queue and self._queue[0][0] <= now:
            delayed = heapq.heappop(self._queue)[2]
            delayed.release()
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
