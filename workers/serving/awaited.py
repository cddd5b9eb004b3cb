"""What a connection waits for, and who waits.

A reply that is not known yet keeps its place in the order of its connection's requests: the
connection has a queue of these, and sends the first of them as soon as its `reply` is there.
"""

from collections import deque
from typing import Protocol, Self

from pwserver.errors import Unavailable
from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.auth.peers import Peer


class Recorded(bytes):
    """A reply that may leave only once the audit record of it has been written."""

    id: Id

    def __new__(cls, reply: bytes, id: Id) -> Self:
        """Make one of a reply to the request with an id."""
        made = super().__new__(cls, reply)
        made.id = id
        return made

    @property
    def refusal(self) -> bytes:
        """What is sent instead where the record cannot be written."""
        return messages.refusal(
            Unavailable("The audit record cannot be written, so no password is given out."),
            self.id,
        )


class Awaited:
    """The reply to a request, or the replies to several that stand together; None until known."""

    __slots__ = ("reply",)

    def __init__(self, reply: bytes | None = None) -> None:
        self.reply = reply

    @property
    def requests(self) -> int:
        """How many requests it answers."""
        return 1

    def withhold(self) -> None:
        """Refuse instead, if the reply needs an audit record: there is none of it."""
        if isinstance(self.reply, Recorded):
            self.reply = self.reply.refusal


class Waiter(Protocol):
    """Who waits: a connection. What it waits for is in the order of its requests."""

    awaited: deque[Awaited]
    peer: Peer  # who is at its other end

    def settle(self) -> None:
        """Answer what is known, and have it sent."""
