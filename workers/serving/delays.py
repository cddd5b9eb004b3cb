"""Replies that are delayed because the client has guessed wrong too often.

A delayed reply does not block other connections, nor requests on the same connection that need no
order. Its content is found when its request's turn comes, so it reflects the requests before it and
none after it. The delay does not depend on the content, so it reveals nothing.
"""

import heapq
import itertools
from collections.abc import Callable

from pwserver.errors import Unavailable
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Awaited, Later, Waiter


class Delayed(Later):
    """A reply that is known but is sent later."""

    def __init__(
        self, waiter: Waiter, id: Id, reply: bytes, then: Callable[[], None] | None
    ) -> None:
        super().__init__()
        self.waiter = waiter
        self._held_back = Awaited(reply)
        self._id = id
        self._then = then

    def withhold(self) -> None:
        """Send a refusal instead, now or when the reply is due."""
        super().withhold()
        self._held_back.withhold()

    def release(self) -> None:
        """Let the reply go."""
        self.reply = self._held_back.reply
        if self._then is not None:
            self._then()

    def give_up(self) -> None:
        """Release a refusal instead of the reply."""
        self.reply = messages.refusal(Unavailable("The service is stopping."), self._id)


class Delays:
    """The delayed replies of one worker."""

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
        """Delay a reply until `due` (monotonic clock, in seconds) or a little longer.

        `then` is called when the reply leaves and not before, because a client may see its effect.
        """
        delayed = Delayed(waiter, id, reply, then)
        if self._ended:
            delayed.give_up()
            return delayed
        heapq.heappush(self._queue, (due, next(self._numbers), delayed))
        return delayed

    def expire(self, now: float) -> list[Waiter]:
        """Release the replies that are due; return their connections."""
        answered: list[Waiter] = []
        while self._queue and self._queue[0][0] <= now:
            delayed = heapq.heappop(self._queue)[2]
            delayed.release()
            answered.append(delayed.waiter)
        return answered

    def end(self) -> list[Waiter]:
        """Refuse all delayed replies, now and from now on; return their connections.

        So a stop does not wait for clients that guess, and they learn nothing from it.
        """
        self._ended = True
        given_up = [delayed for _, _, delayed in self._queue]
        self._queue.clear()
        for delayed in given_up:
            delayed.give_up()
        return [delayed.waiter for delayed in given_up]
