"""A request and its replies on one connection, without input or output.

A `RoundTrip` returns the bytes to send, and is given what arrived until it is complete; the
connections of both clients drive it. This file has what all round trips have in common, and the
authentication, which comes first if there is a token. `retry` has an application's calls, and `tls`
the handshake.
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
    """Something to send, and the replies that must come before a deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """When it must be complete, by `time.monotonic`."""
        self.awaiting = False
        """Whether bytes may have been sent to which a reply is still to come."""

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

        Raises an error if the connection must not be used any more.
        """


class Replies:
    """Reads what arrives on a connection as replies of the service."""

    def __init__(self) -> None:
        self._reader = framing.reply_reader(REPLY_BYTES_MAX)

    def take(self, data: bytes) -> Iterator[Reply]:
        """Return an iterator over the replies that are complete now.

        Raises `ConnectionFailed` at the end of the connection, for anything but a reply, and for
        the reply of a service that expects TLS.
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
        """Raise `ProtocolViolation` if anything follows the last reply."""
        if self._reader.unsettled:
            raise ProtocolViolation("the service sent more than was asked for.")


class Authentication(RoundTrip):
    """Shows the token to the service, which accepts it or not.

    No request is sent before the service has accepted the token. If it does not accept it, it would
    still do such a request, as that of a guest and in another book. Raises `Denied` in that case.
    """

    def __init__(self, token: Secret[str], deadline: float) -> None:
        super().__init__(deadline)
        self._token = token
        self._replies = Replies()

    def request(self) -> bytes:
        """Return the message with the token."""
        self.awaiting = True
        return messages.encode("authenticate", token=self._token.reveal())

    def take(self, data: bytes) -> None:
        """Take a part of the reply."""
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
