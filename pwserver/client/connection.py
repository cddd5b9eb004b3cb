"""One connection of a `Client`: it connects, and sends and receives the bytes of a `RoundTrip`.

It uses TCP, with TLS or without, or a Unix socket. It knows nothing of messages, and not which
calls use the connection before and after; `connections` decides that.
"""

import os
import select
import socket
from typing import TYPE_CHECKING, Any

from pwserver.client.access import Access
from pwserver.client.round_trip import RoundTrip, seconds_until
from pwserver.client.url import ServiceUrl
from pwserver.errors import ConnectionFailed

if TYPE_CHECKING:
    from pwserver.client.tls import Session

RECEIVE_BYTES = 64 * 1024


class Connection:
    """A connected socket. It never waits longer than the deadline of a round trip."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._session: Session | None = None
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has arrived since the last reply, not even the end of the connection."""
        return not self._poll.poll(0)

    def greet(self, access: Access, deadline: float) -> None:
        """Do what comes before all requests: the TLS handshake and the authentication.

        Raises `ConnectionFailed`, or `Denied` if the service does not accept the token.
        """
        if (session := access.session()) is not None:
            handshake = session.handshake(deadline)
            while not session.is_ready:
                self.ask(handshake)
            self._session = session
        for each in access.authentication(deadline):
            self.ask(each)

    def ask(self, round_trip: RoundTrip) -> None:
        """Send the request of a round trip, and pass it what arrives until it is complete.

        It sends and receives at the same time, because the service stops reading from a client that
        does not read its replies.
        """
        request = round_trip.request()
        unsent = memoryview(self._session.encrypt(request) if self._session else request)
        try:
            while round_trip.awaiting:
                unsent = unsent[self._send(unsent) :]
                self._wait(bool(unsent), round_trip.seconds_left)
                if (data := self._receive()) is not None:
                    round_trip.take(data)
        except OSError as error:
            raise ConnectionFailed(f"the connection was lost: {reason(error)}.") from None
        if unsent:  # the service answered before it had read the whole request
            raise ConnectionFailed("the service did not take the whole request.")

    def close(self) -> None:
        """Close it; in a child process this leaves the parent's connection open."""
        self._socket.close()

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data) if data else 0
        except BlockingIOError:
            return 0

    def _receive(self) -> bytes | None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        return self._session.decrypt(data) if self._session else data

    def _wait(self, to_send: bool, seconds: float) -> None:
        self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if to_send else 0))
        ready = self._poll.poll(seconds * 1000)
        self._poll.modify(self._socket, select.POLLIN)
        if not ready:
            raise ConnectionFailed("the service did not answer in time.")


def connected_socket(url: ServiceUrl, deadline: float) -> socket.socket:
    """Return a socket that is connected to the first address of the service that answers.

    The addresses share the time that is left: one that never answers, such as an IPv6 address
    behind a broken route, must not use up the time of the others.
    """
    failure: Exception = OSError("the name has no address")
    try:
        addresses = _addresses(url)
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            share_s = seconds_until(deadline) / (len(addresses) - place)
            try:
                seconds = max(share_s, 0.001)  # 0 would make the socket non-blocking
                return _connect_to(address, socket.socket(family, kind, protocol), seconds)
            except OSError as error:
                failure = error
    except (OSError, UnicodeError) as error:  # the name is unknown, or cannot be one
        failure = error
    raise unreachable(url, failure)


def _addresses(url: ServiceUrl) -> list[tuple[Any, ...]]:
    """Return what `socket.getaddrinfo` returns, for a Unix socket as well."""
    if url.path:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", url.path)]
    return [*socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)]


def _connect_to(address: Any, made: socket.socket, seconds: float) -> socket.socket:
    try:
        made.settimeout(seconds)
        made.connect(address)
        if made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


def unreachable(url: ServiceUrl, error: Exception) -> ConnectionFailed:
    """Return the error for a service that cannot be connected to."""
    return ConnectionFailed(f"{url} cannot be reached: {reason(error)}.")


def reason(error: Exception) -> str:
    """Return the system's text for an error, without what libraries add to it."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    if (
        isinstance(error, socket.gaierror) and error.strerror
    ):  # its numbers are below 0, and its own
        return error.strerror
    return str(error) or "timed out"
