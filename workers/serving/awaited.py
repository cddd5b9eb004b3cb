"""Replies that are not known yet, and the connections that wait for them.

Each connection has a queue of `Awaited` replies in the order of its requests, and sends the first
one as soon as its `reply` is set.
"""

from collections import deque
from typing import Protocol, Self

from pwserver.errors import Unavailable
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.auth.peers import Peer


class Recorded(bytes):
    """A reply that may leave only after its audit record has been written."""

    id: Id

    def __new__(cls, reply: bytes, id: Id) -> Self:
        """Make one from the reply to the request with this `id`."""
        made = super().__new__(cls, reply)
        made.id = id
        return made

    @property
    def refusal(self) -> bytes:
        """The reply to send instead if the record cannot be written."""
        return messages.refusal(
            Unavailable("The audit record cannot be written, so no password is given out."),
            self.id,
        )


class Awaited:
    """The reply to a request, or the joined replies to consecutive ones; None until known.

    `lasts` says that the request is done even if its client is gone, so that the connection goes on
    waiting for it.
    """

    __slots__ = ("reply",)

    lasts = False

    def __init__(self, reply: bytes | None = None) -> None:
        self.reply = reply

    @property
    def requests(self) -> int:
        """How many requests this answers."""
        return 1

    def withhold(self) -> None:
        """Replace a reply whose audit record could not be written with a refusal."""
        if isinstance(self.reply, Recorded):
            self.reply = self.reply.refusal


class Later(Awaited):
    """The reply to one request, which comes in a later turn.

    `counted_as` is how the connection counts it then: as which command, of which kind, and since
    when it was waited for.
    """

    counted_as: tuple[int, int, float] | None = None


class Waiter(Protocol):
    """A connection that waits for replies."""

    awaited: deque[Awaited]  # in the order of its requests
    reading: int  # of its requests, those for which the store's answer is awaited
    peer: Peer  # the client at the other end

    def end(self) -> None:
        """Take no more requests, and close after the replies to those that have arrived."""

    def settle(self) -> None:
        """Take the replies that are known from `awaited` and have them sent."""
