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
from pwserver.wire import framing, messages, scram
from pwserver.wire.messages import Reply
from pwserver.wire.scram import ScramError

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


def authentication(
    token: Secret[str], deadline: float, *, in_clear: bool
) -> "Iterator[Authentication]":
    """Yield the round trips that authenticate a connection; do each before the next is asked for.

    If others can listen, or take the service's place, because the connection is `in_clear`, the
    token is not sent: client and service prove to each other that they know it. Raises `Denied` if
    the service does not accept the token, and `ProtocolViolation` if it does not know it itself.
    """
    if not in_clear:
        yield Authentication(deadline, "Authenticated!", token=token.reveal())
        return
    client = scram.Client(scram.user_of(token.reveal()), token.reveal())
    challenge = Authentication(deadline, "return_scram", scram=client.first())
    yield challenge
    try:
        proof = Authentication(deadline, "Authenticated!", scram=client.final(challenge.answer))
        yield proof
        client.check(proof.answer)
    except ScramError as error:
        raise ProtocolViolation(
            f"what answers there has not proved that it is the service of this token: {error}"
        ) from None


class Authentication(RoundTrip):
    """An `authenticate` message and its reply.

    No request is sent before the service has accepted the token. If it does not accept it, it would
    still do such a request, as that of a guest and in another book.
    """

    def __init__(self, deadline: float, expected: str, **shown: str) -> None:
        super().__init__(deadline)
        self._expected = expected
        self._shown = shown
        self._replies = Replies()
        self.answer = ""
        """The service's own part of a proof."""

    def request(self) -> bytes:
        """Return the message."""
        self.awaiting = True
        return messages.encode("authenticate", **self._shown)

    def take(self, data: bytes) -> None:
        """Take a part of the reply."""
        for reply in self._replies.take(data):
            if not self.awaiting:
                raise ProtocolViolation("the service sent more than was asked for.")
            _check(reply, self._expected)
            self.answer = reply.scram or ""
            self.awaiting = False
        if not self.awaiting:
            self._replies.check_end()


def _check(reply: Reply, expected: str) -> None:
    if reply.message == Denied.message:
        raise Denied(reply.error or "The service does not accept the token.")
    if reply.message == Unavailable.message:
        raise ConnectionFailed(reply.error or f"The service answered: {reply.message}")
    if reply.message != expected:
        raise ProtocolViolation("the answer to the token is not one of this service.")
