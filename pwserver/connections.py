"""The connections of a `Client`: made when needed, kept for the next call, and bounded in number.

The only place of the synchronous client that touches sockets. It moves bytes for an `Exchange` and
knows nothing of messages. The rules:

- A connection goes back only after a window that went well. After anything else, an interrupt
  included, it is closed, so that a late reply can never answer another request.
- One on which something arrived while nothing was asked, the end of the connection above all, is
  closed as well. That is seen before anything is sent, and so has had no effect.
- The one used last is used first, so that those a burst has left over come to be closed.
- After a fork the child has a pool without connections: two processes on one would read each
  other's replies. Its copies are closed there, which the parent's do not notice.
"""

import os
import select
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pwserver.errors import ConnectionFailed
from pwserver.exchange import Exchange
from pwserver.url import ServiceUrl

RECEIVE_BYTES = 64 * 1024


class Connection:
    """A connected socket, which is never waited for longer than an exchange allows."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has arrived, not even the end, since the last reply."""
        return not self._poll.poll(0)

    def ask(self, exchange: Exchange) -> None:
        """Send the requests of a window, and take replies until it is done.

        Both at the same time: the service stops reading from a client that does not.
        """
        unsent = memoryview(exchange.request())
        try:
            while exchange.awaiting:
                unsent = unsent[self._send(unsent) :]
                self._wait(bool(unsent), exchange.seconds_left)
                if (data := self._receive()) is not None:
                    exchange.take(data)
        except OSError as error:
            raise ConnectionFailed(f"the connection was lost: {reason(error)}.") from None
        if unsent:  # the service has had enough of a request before the end of it
            raise ConnectionFailed("the service did not take the whole request.")

    def close(self) -> None:
        """Close it; in a child this leaves the parent's connection as it is."""
        self._socket.close()

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data) if data else 0
        except BlockingIOError:
            return 0

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def _wait(self, to_send: bool, seconds: float) -> None:
        self._poll.modify(self._socket, select.POLLIN | (select.POLLOUT if to_send else 0))
        ready = self._poll.poll(seconds * 1000)
        self._poll.modify(self._socket, select.POLLIN)
        if not ready:
            raise ConnectionFailed("the service did not answer in time.")


class ConnectionPool:
    """Connections to one service, shared by all threads of a process."""

    def __init__(self, url: ServiceUrl, connections_max: int) -> None:
        self._url = url
        self._connections_max = connections_max
        self._start()
        _pools.add(self)

    def _start(self) -> None:
        self._changed = threading.Condition()  # guards all of these
        self._in_use = 0
        self._idle: list[Connection] = []  # the one used last is the last
        self._open: set[Connection] = set()

    @contextmanager
    def connection(self, exchange: Exchange) -> Iterator[Connection]:
        """Lend a connection, waiting for one up to the deadline of the exchange."""
        self._begin_turn(exchange.seconds_left)
        try:
            idle = self._idle
            connection = self._newest_idle() or self._connect(exchange)
            try:
                yield connection
                self._give_back(connection, idle)
            except BaseException:
                self._drop(connection)
                raise
        finally:
            self._end_turn()

    def close(self) -> None:
        """Close the connections; those in use as soon as they are not."""
        with self._changed:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._drop(connection)

    def renew(self) -> None:
        """Start without connections, in the child after a fork; locks may be held by nobody."""
        inherited = self._open
        self._start()
        for connection in inherited:
            connection.close()

    def _begin_turn(self, seconds: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._in_use < self._connections_max, seconds):
                raise all_in_use(self._connections_max)
            self._in_use += 1

    def _end_turn(self) -> None:
        with self._changed:
            self._in_use -= 1
            self._changed.notify()

    def _give_back(self, connection: Connection, idle: list[Connection]) -> None:
        with self._changed:
            if idle is self._idle:
                idle.append(connection)
                return
        self._drop(connection)  # the client was closed meanwhile

    def _newest_idle(self) -> Connection | None:
        while True:
            with self._changed:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            self._drop(connection)

    def _connect(self, exchange: Exchange) -> Connection:
        connection = Connection(connect(self._url, exchange))
        with self._changed:
            self._open.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)
        connection.close()


def connect(url: ServiceUrl, exchange: Exchange) -> socket.socket:
    """Return a socket that is connected to the first address of the service that answers."""
    failure: Exception = OSError("the name has no address")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM
        ):
            try:
                seconds = max(exchange.seconds_left, 0.001)  # 0 would mean something else
                return _connect_to(address, socket.socket(family, kind, protocol), seconds)
            except OSError as error:
                failure = error
    except (OSError, UnicodeError) as error:  # the name is unknown, or cannot be one
        failure = error
    raise unreachable(url, failure)


def _connect_to(address: Any, made: socket.socket, seconds: float) -> socket.socket:
    try:
        made.settimeout(seconds)
        made.connect(address)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


def unreachable(url: ServiceUrl, error: Exception) -> ConnectionFailed:
    """Return the error for a service that cannot be connected to."""
    return ConnectionFailed(f"{url} cannot be reached: {reason(error)}.")


def all_in_use(connections_max: int) -> ConnectionFailed:
    """Return the error for a call that got no connection."""
    return ConnectionFailed(
        f"all {connections_max} connections of the client were in use for too long; "
        "allow it more with connections_max."
    )


def reason(error: Exception) -> str:
    """Return what the system says of an error, without what libraries add to it."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, socket.gaierror) and error.strerror:  # has numbers of its own, below 0
        return error.strerror
    return str(error) or "timed out"


_pools: "weakref.WeakSet[ConnectionPool]" = weakref.WeakSet()


def _renew_pools() -> None:
    for pool in list(_pools):
        pool.renew()


os.register_at_fork(after_in_child=_renew_pools)
