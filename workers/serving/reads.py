"""Replies that wait for an answer of the store, if it does not answer at once."""

from pwserver.wire import messages
from pwserver.wire.messages import Id
from workers.serving.awaited import Awaited, Later, Waiter
from workers.serving.name_queues import refusal_of
from workers.storage.answers import Pending, Steps, finish


class Read(Later):
    """The reply to a request that waits for an answer of the store."""

    __slots__ = ("_id", "_waiter")

    def __init__(self, waiter: Waiter, id: Id, reply: Pending) -> None:
        super().__init__()
        self._waiter = waiter
        self._id = id
        waiter.reading += 1
        reply.then(self._on_known)

    def _on_known(self, known: Pending) -> None:
        waiter = self._waiter
        waiter.reading -= 1
        if known.error is not None:
            self.reply = messages.refusal(refusal_of(known.error), self._id)
        elif isinstance(known.value, bytes):
            self.reply = known.value
        elif self in waiter.awaited:  # else the client is gone
            later: Later = known.value
            later.counted_as = self.counted_as
            waiter.awaited[waiter.awaited.index(self)] = later
        waiter.settle()


def read(steps: Steps[bytes] | Steps[bytes | Awaited], waiter: Waiter, id: Id) -> bytes | Awaited:
    """Return the reply that steps make, or what waits for it."""
    reply: bytes | Awaited | Pending = finish(steps)
    return Read(waiter, id, reply) if isinstance(reply, Pending) else reply
