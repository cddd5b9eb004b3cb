"""What is said over a connection at one go, without any input or output.

A `RoundTrip` says which bytes to send, and is told what arrived until it awaits no more; the
connections of both clients drive it. The calls of an application are one, in `retry`. This file has
what all have in common, and the one that comes before all others where there is a token: it says
who asks.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from pwserver.errors import ConnectionFailed, Denied, ProtocolViolation, TlsFailed, Unavailable
from pwserver.secret import Secret
from pwserver.wire import framing, messages
from pwserver.wire.messages import Reply

REPLY_BYTES_MAX = 1024 * 1024
"""The longest reply that is accepted: four times the longest page of users there is."""


def seconds_until(deadline: float) -> float:
    """Return the time until a deadline by `time.monotonic`, never less than 0."""
    return max(deadline - time.monotonic(), 0.0)


class RoundTrip(ABC):
    """Something to send, and what is to come for it before a deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """When it must be over, by `time.monotonic`."""
        self.awaiting = False
        """Whether bytes may have been sent for which others are to come."""

    @property
    def seconds_left(self) -> float:
        """The time until the deadline, never less than 0."""
        return seconds_until(self.deadline)

    @abstractmethod
    def request(self) -> bytes:
        """Return what to send now, all of it; from here on it may have arrived."""

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Take what arrived; nothing means that the service closed the connection.

        Raises an error where the connection must not be used any more.
        """


class Replies:
    """What a connection brings, read as replies of the service."""

    def __init__(self) -> None:
        self._reader = framing.reply_reader(REPLY_BYTES_MAX)

    def take(self, data: bytes) -> Iterator[Reply]:
        """Return an iterator over the replies that are complete by now.

        Raises `ConnectionFailed` at the end of the connection, at what is no reply, and at that
        which a service with TLS has for who speaks none.
        """
        if not data:
            raise ConnectionFailed("the service closed the connection.")
        for reply in self._reader.feed(data):
            if not isinstance(reply, Reply):
                raise ProtocolViolation("the answer is not one of this service.")
            if reply.error == messages.SPEAKS_TLS:
                raise TlsFailed("the service speaks TLS there; use a URL with pwservers://.")
            yield reply

    def check_end(self) -> None:
        """Raise `ProtocolViolation` where something stands behind the last reply."""
        if self._reader.unsettled:
            raise ProtocolViolation("the service sent more than was asked for.")


class Authentication(RoundTrip):
    """The token, and whether the service accepts it.

    Nothing is sent behind it before it is accepted: were it not, that would be done all the same,
    as for somebody without a token, and in another book. Raises `Denied` where it is not.
    """

    def __init__(self, token: Secret[str], deadline: float) -> None:
        super().__init__(deadline)
        self._token = token
        self._replies = Replies()

    def request(self) -> bytes:
        """Return the message that says who asks."""
        self.awaiting = True
        return messages.encode("authenticate", token=self._token.reveal())

    def take(self, data: bytes) -> None:
        """Take what arrived of the reply."""
        for reply in self._replies.take(data):
            if not self.awaiting:
                raise ProtocolViolation("the service sent more than was asked for.")
            _check(reply)
            self.awaiting = False
        if not self.awaiting:
            self._replies.check_end()


def _check(reply: Reply) -> None:
    if reply.message == Denied.message:
        raise Denied(reply.error or "The service does not accept the token.")
    if reply.message == Unavailable.message:
        raise ConnectionFailed(reply.error or f"The service answered: {reply.message}")
    if reply.message != "Authenticated!":
        raise ProtocolViolation("the answer to the token is not one of this service.")
