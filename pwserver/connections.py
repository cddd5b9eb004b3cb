"""The connections of a `Client`: made when needed, kept for the next call, and bounded in number.

What a connection is, `connection` knows. The rules for them:

- A connection goes back only after a window that went well. After anything else, an interrupt
  included, it is closed, so that a late reply can never answer another request.
- One on which something arrived while nothing was asked, the end of the connection above all, is
  closed as well. That is seen before anything is sent, and so has had no effect.
- The one used last is used first, so that those a burst has left over come to be closed.
- After a fork the child has a pool without connections: two processes on one would read each
  other's replies. Its copies are closed there, which the parent's do not notice.
"""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from pwserver.access import Access
from pwserver.connection import Connection, connected_socket
from pwserver.errors import ConnectionFailed
from pwserver.exchange import Exchange


class ConnectionPool:
    """Connections to one service, shared by all threads of a process."""

    def __init__(self, access: Access, connections_max: int) -> None:
        self._access = access
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
        connection = Connection(connected_socket(self._access.url, exchange.deadline))
        with self._changed:
            self._open.add(connection)
        try:
            connection.greet(self._access, exchange.deadline)
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _drop(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)
        connection.close()


def all_in_use(connections_max: int) -> ConnectionFailed:
    """Return the error for a call that got no connection."""
    return ConnectionFailed(
        f"all {connections_max} connections of the client were in use for too long; "
        "allow it more with connections_max."
    )


_pools: "weakref.WeakSet[ConnectionPool]" = weakref.WeakSet()


def _renew_pools() -> None:
    for pool in list(_pools):
        pool.renew()


os.register_at_fork(after_in_child=_renew_pools)
