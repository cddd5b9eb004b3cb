"""The connections of a `Client`: made when needed, kept for the next call, and bounded in number.

What a connection is, `connection` knows. The rules for them:

- A connection goes back only after a window that went well. After anything else, an interrupt
  included, it is closed, so that a late reply can never answer another request.
- An interrupt may come between any two steps. So each thing that must not be half done is one step
  of Python's own: to take a connection from those that are idle, to put it back. One that nobody
  has any more is closed by Python; how calls wait for each other is the business of
  `fair_semaphore`.
- One on which something arrived while nothing was asked, the end of the connection above all, is
  closed as well. That is seen before anything is sent, and so has had no effect.
- The one used last is used first, so that those a burst has left over come to be closed.
- After a fork the child has a pool without connections: two processes on one would read each
  other's replies. Its copies are closed there, which the parent's do not notice.
"""

import os
import weakref

from pwserver.client.access import Access
from pwserver.client.connection import Connection, connected_socket
from pwserver.client.fair_semaphore import FairSemaphore, Held
from pwserver.client.retry import RetriedCalls
from pwserver.errors import ConnectionFailed


class ConnectionPool:
    """Connections to one service, shared by all threads of a process."""

    def __init__(self, access: Access, connections_max: int) -> None:
        self._access = access
        self._connections_max = connections_max
        self._start()
        _pools.add(self)

    def _start(self) -> None:
        self._turns = FairSemaphore(self._connections_max)
        self._idle: list[Connection] = []  # the one used last is the last
        self._open: set[Held[Connection]] = set()

    def ask(self, exchange: RetriedCalls) -> None:
        """Ask over a connection, waiting for one up to the deadline of the exchange."""
        if not self._turns.take(lambda: self._ask(exchange), exchange.seconds_left):
            raise all_in_use(self._connections_max)

    def close(self) -> None:
        """Close the connections; those in use as soon as they are not."""
        idle, self._idle = self._idle, []
        _close_all(idle)

    def renew(self) -> None:
        """Start without connections, in the child after a fork."""
        inherited = self._open
        self._start()
        for opened in inherited:
            if (connection := opened()) is not None:
                connection.close()

    def _ask(self, exchange: RetriedCalls) -> None:
        idle = self._idle
        connection = _newest_fresh(idle) or self._connect(exchange)
        try:
            connection.ask(exchange)
        except BaseException:
            connection.close()
            raise
        idle.append(connection)
        if idle is not self._idle:  # the client was closed meanwhile
            _close_all(idle)

    def _connect(self, exchange: RetriedCalls) -> Connection:
        connection = Connection(connected_socket(self._access.url, exchange.deadline))
        try:
            self._open.add(Held(connection, self._open.discard))
            connection.greet(self._access, exchange.deadline)
        except BaseException:
            connection.close()
            raise
        return connection


def _newest_fresh(idle: list[Connection]) -> Connection | None:
    """Take the connection that was used last, and close those that are of no use any more."""
    while (connection := _newest(idle)) is not None:
        if connection.is_fresh:
            return connection
        connection.close()
    return None


def _close_all(idle: list[Connection]) -> None:
    while (connection := _newest(idle)) is not None:
        connection.close()


def _newest(idle: list[Connection]) -> Connection | None:
    try:
        return idle.pop()
    except IndexError:  # another thread may have taken the last
        return None


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
