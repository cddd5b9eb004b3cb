"""Connections from balancers that have not shown their PROXY header yet, each with a deadline.

Whoever connects from one of the trusted networks must show a header before anything else. So who
has one says truly where its client is, and nobody else is asked: a header from another address is
bytes like any others. A connection is here only until its header is read, which as a rule has
arrived when the connection has. It has a place all the while.

Like the handshakes of TLS, which come after the header, they have an epoll of their own, which the
worker's epoll watches like a socket.
"""

import select
import socket

from pwserver.accepted import Accepted
from pwserver.limits import HURRY_S
from pwserver.networks import is_within
from workers.auth.peers import host_of
from workers.auth.proxy_header import CUT_SHORT, NO_HEADER, ProxyHeader, WrongHeader

Arrival = tuple[Accepted, str]
"""A client, and why it must not be served; empty if it may be."""


class AwaitedHeaders:
    """Connections that have not shown their header. `networks` are those of the balancers."""

    def __init__(self, networks: str, timeout_s: float) -> None:
        self._networks = networks
        self._timeout_s = timeout_s
        self._epoll = select.epoll()
        self._awaited: dict[int, _Awaited] = {}  # the oldest first

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when there is something to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._awaited)

    def expects(self, client: Accepted) -> bool:
        """Tell whether a new connection must show a header."""
        return (
            not client.proxied  # another process has read it
            and client.socket.family != socket.AF_UNIX
            and is_within(host_of(client.address), self._networks)
        )

    def add(self, client: Accepted, now: float) -> None:
        """Wait for the header of a connection, which may have sent it."""
        fd = client.socket.fileno()
        self._awaited[fd] = _Awaited(client, now + self._timeout_s)
        self._epoll.register(fd, select.EPOLLIN)

    def work(self) -> list[Arrival]:
        """Receive what has arrived; return the clients whose header is complete, or wrong."""
        arrivals = []
        for fd, _ in self._epoll.poll(0, max(1, len(self._awaited))):
            arrival = self._awaited[fd].step()
            if arrival is not None:
                self._forget(arrival[0])
                arrivals.append(arrival)
        return arrivals

    def expire(self, now: float, *, hurry: bool = False) -> list[Arrival]:
        """Return the connections whose header took too long.

        With `hurry`, `HURRY_S` is too long.
        """
        if hurry:
            now += max(0.0, self._timeout_s - HURRY_S)
        late = []
        for awaited in self._awaited.values():
            if awaited.deadline > now:
                break
            late.append((awaited.client, CUT_SHORT if awaited.header.begun else NO_HEADER))
        for client, _ in late:
            self._forget(client)
        return late

    def release(self) -> list[Accepted]:
        """Return the connections of which nothing was read yet; they are not here any more."""
        clients = [each.client for each in self._awaited.values() if not each.header.begun]
        for client in clients:
            self._forget(client)
        return clients

    def close(self) -> int:
        """Close all connections here; return their number."""
        clients = [each.client for each in self._awaited.values()]
        for client in clients:
            self._forget(client)
            client.socket.close()
        return len(clients)

    def _forget(self, client: Accepted) -> None:
        self._epoll.unregister(client.socket)
        del self._awaited[client.socket.fileno()]


class _Awaited:
    """One connection, and what there is of its header."""

    __slots__ = ("client", "deadline", "header")

    def __init__(self, client: Accepted, deadline: float) -> None:
        self.client = client
        self.deadline = deadline
        self.header = ProxyHeader()

    def step(self) -> Arrival | None:
        """Receive what there is of the header, and no byte after it."""
        header, own = self.header, self.client
        try:
            while header.wanted:
                data = own.socket.recv(header.wanted)
                if not data:
                    break
                header.feed(data)
        except BlockingIOError:
            return None
        except WrongHeader as wrong:
            return own, str(wrong)
        except OSError:  # it was reset, as whoever serves it will see
            pass
        if header.wanted and header.begun:
            return own, CUT_SHORT
        # Who says nothing at all and ends, like some checks of health, is no offender.
        return Accepted(own.socket, header.address or own.address, proxied=True), ""
