"""The connection pool of a `Client`: it opens connections when needed, and keeps them for later.

`connection` has a single connection. The rules of the pool:

- A connection goes back to the pool only after a window of calls that all were answered. After
  anything else, such as an interrupt, it is closed, so that a late reply can never answer another
  request.
- An interrupt may come between any two bytecodes. So what must not be half done is a single
  operation of Python: taking a connection from the idle ones, putting it back. Python closes a
  connection that nobody refers to any more. `fair_semaphore` makes calls wait for each other.
- A connection on which something arrived while nothing was asked is closed as well; usually that
  is the end of the connection. The pool sees it before it sends anything, so nothing was done.
- The most recently used connection is used first, so that the service closes the ones that only a
  burst needed, when they are idle for long.
- After a fork, the child starts with an empty pool: two processes on one connection would read each
  other's replies. The child closes its copies; the parent's connections stay open.
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
        self._idle: list[Connection] = []  # the most recently used one is the last
        self._open: set[Held[Connection]] = set()

    def ask(self, exchange: RetriedCalls) -> None:
        """Ask over a connection; wait for a free one up to the deadline of the exchange."""
        if not self._turns.take(lambda: self._ask(exchange), exchange.seconds_left):
            raise all_in_use(self._connections_max)

    def close(self) -> None:
        """Close the idle connections now, and those in use after their use."""
        idle, self._idle = self._idle, []
        _close_all(idle)

    def renew(self) -> None:
        """Start again without connections, in the child after a fork."""
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
    """Take the most recently used connection that is fresh; close those that are not."""
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
