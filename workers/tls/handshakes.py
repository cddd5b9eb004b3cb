"""Does TLS handshakes, for a short time in each turn of a worker.

A handshake takes up to a millisecond of processor time, and thousands may begin at once, so they
must not delay clients that are connected already. They have an epoll of their own, which the
worker's epoll watches like a socket. In each turn the worker serves all other clients first, and
then advances the handshakes for a moment.
"""

import select
import ssl
import time
from dataclasses import dataclass

from msgspec import UNSET

from pwserver.accepted import Accepted
from pwserver.errors import Unavailable
from pwserver.limits import HURRY_S, RECEIVE_BYTES
from pwserver.wire import messages
from workers.tls.records import Codec, HandshakeFailed

_MOMENT_S = 0.002
"""How long handshakes may delay other clients in a turn, apart from the last step."""

BEGUN_MAX = 1024
"""Handshakes that have begun, and are not over: each keeps 47 KB. One more ends the oldest of them,
which was as slow as so many others were quick."""

_HANDSHAKE = 0x16
"""The first byte of a handshake record (RFC 8446, 5.1)."""

_NOT_TLS = messages.refusal(Unavailable(messages.SPEAKS_TLS), UNSET)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client whose handshake is over."""

    client: Accepted
    codec: Codec | None  # None: the handshake has failed
    data: bytes  # the records after the handshake; if it failed, the last bytes to send


class Handshakes:
    """Clients that have not finished their handshake, each with a deadline."""

    def __init__(self, context: ssl.SSLContext, timeout_s: float) -> None:
        self.context = context
        """The context for handshakes that begin from now on."""
        self._timeout_s = timeout_s
        self._epoll = select.epoll()
        self._handshakes: dict[int, _Handshake] = {}  # the oldest first
        self._begun: dict[int, None] = {}  # those of which something was read, likewise

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when there is something to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._handshakes)

    def add(self, client: Accepted, now: float) -> None:
        """Add a client that may have sent nothing yet."""
        fd = client.socket.fileno()
        self._handshakes[fd] = _Handshake(client, now + self._timeout_s)
        self._epoll.register(fd, select.EPOLLIN)

    def work(self) -> list[Arrival]:
        """Advance handshakes for a moment; return the clients whose handshake is over."""
        arrivals = []
        until = time.monotonic() + _MOMENT_S
        while time.monotonic() < until and (events := self._epoll.poll(0, 1)):
            fd = events[0][0]
            handshake = self._handshakes[fd]
            arrival = handshake.step(self.context)
            self._begun.setdefault(fd)
            if arrival is not None:
                self._forget(fd)
                arrivals.append(arrival)
                continue
            if handshake.wants != handshake.events:
                self._epoll.modify(fd, handshake.wants)
                handshake.events = handshake.wants
            if len(self._begun) > BEGUN_MAX:
                oldest = next(iter(self._begun))
                arrivals.append(Arrival(self._handshakes[oldest].client, None, b""))
                self._forget(oldest)
        return arrivals

    def expire(self, now: float, *, hurry: bool = False) -> int:
        """Close the connections whose handshake took too long; return their number.

        With `hurry`, `HURRY_S` is too long.
        """
        if hurry:
            now += max(0.0, self._timeout_s - HURRY_S)
        late = []
        for handshake in self._handshakes.values():
            if handshake.deadline > now:
                break
            late.append(handshake)
        return self._close(late)

    def release(self) -> list[Accepted]:
        """Return the clients of which nothing was read yet; they are not here any more."""
        untouched = [each for each in self._handshakes.values() if each.untouched]
        for each in untouched:
            self._forget(each.client.socket.fileno())
        return [each.client for each in untouched]

    def close(self) -> int:
        """Close all connections here; return their number."""
        return self._close(list(self._handshakes.values()))

    def _close(self, handshakes: "list[_Handshake]") -> int:
        for handshake in handshakes:
            client = handshake.client.socket
            self._forget(client.fileno())
            client.close()
        return len(handshakes)

    def _forget(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._handshakes[fd]
        self._begun.pop(fd, None)


class _Handshake:
    """One client's handshake."""

    __slots__ = ("_codec", "_unsent", "client", "deadline", "events")

    def __init__(self, client: Accepted, deadline: float) -> None:
        self._codec: Codec | None = None  # made at the client's first byte: many may connect
        self._unsent = b""
        self.client = client
        self.deadline = deadline
        self.events = select.EPOLLIN  # the events that are waited for now

    @property
    def untouched(self) -> bool:
        """Whether nothing was read from the client."""
        return self._codec is None

    @property
    def wants(self) -> int:
        """The epoll events to wait for."""
        return select.EPOLLOUT if self._unsent else select.EPOLLIN

    def step(self, context: ssl.SSLContext) -> Arrival | None:
        """Do what can be done now; return the client once the handshake is over."""
        try:
            arrival = None if self._unsent else self._receive(context)
            if self._unsent:
                self._unsent = self._unsent[self.client.socket.send(self._unsent) :]
        except BlockingIOError:
            return None
        except OSError:
            return Arrival(self.client, None, b"")
        return arrival

    def _receive(self, context: ssl.SSLContext) -> Arrival | None:
        data = self.client.socket.recv(RECEIVE_BYTES)
        if not data:
            return Arrival(self.client, None, b"")
        if self._codec is None:
            if data[0] != _HANDSHAKE:
                return Arrival(self.client, None, _NOT_TLS)
            self._codec = Codec(context)
        try:
            done = self._codec.shake(data)
        except HandshakeFailed:
            return Arrival(self.client, None, self._codec.unsent())
        if done:
            return Arrival(self.client, self._codec, self._codec.after_handshake())
        self._unsent = self._codec.unsent()
        return None
