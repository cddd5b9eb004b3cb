"""A connection to PostgreSQL that never waits: questions go into a pipeline, answers come later.

The loop waits for the link and calls `work` when it can be read, and once a tick. A connection is
made, and made again after it is lost, in steps (`PQconnectPoll`), so that a worker that waits for a
failover still serves. What is sent together, a `Group`, is answered together. A group whose
connection is lost is told so: what it has done is unknown.

libpq changes its socket while it connects. So the loop waits for a descriptor of the link's own,
an epoll with that socket in it.

Knows nothing of what the statements mean.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from select import EPOLLIN, EPOLLOUT

from psycopg import Error, pq
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PollingStatus
from psycopg.pq.abc import PGconn, PGresult

from workers.storage.postgres.hosts import Hosts

_RETRY_S = 0.1
"""How long after a try with each of the hosts the next one begins, at the soonest."""

_SILENCE_S = 5.0
"""How long an answer may take before the server counts as gone: a machine that is frozen, or cut
off, closes no connection."""

_FIRST = b"SET client_connection_check_interval = 1000"
"""The server ends what waits for a lock for a client that is gone, so that it does not run out of
connections while each new one waits for the last."""

_BINARY = 1
_NOT_REPLICATED = b"01000"
"""A wait for the standby was cancelled: the commit may be lost at the next failover."""

Parameters = Sequence[bytes | None]


class SqlError(Exception):
    """The server has refused a statement; nothing of its group was done."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


class Lost(Exception):
    """The connection was lost, so nobody knows what the group has done."""


class Group:
    """Statements that were sent together, and the results of each."""

    def __init__(self, then: Callable[["Group"], None]) -> None:
        self.then = then
        self.results: list[PGresult] = []
        self.error: SqlError | Lost | None = None
        self.sent_at = time.monotonic()


class Link:
    """One connection, which is made again whenever it is lost. Call `work` to begin.

    `begin` is called when it is connected, and `end` with the reason when it is lost.
    """

    def __init__(
        self,
        conninfo: str,
        statements: Mapping[str, str],
        begin: Callable[[], None],
        end: Callable[[str], None],
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._hosts = Hosts(conninfo)
        self._epoll = select.epoll()
        self._events = 0  # what `_epoll` waits for
        self._statements = statements
        self._begin, self._end = begin, end
        self._silence_s = silence_s
        self._connection: PGconn | None = None
        self._groups: deque[Group] = deque()
        self._connected = False
        self._try_at = self._began_at = 0.0
        self._unsent = False
        self.doubtful = False  # a commit was not replicated, or the server is being shut down
        self.why = "it was not tried yet"  # there is no connection
        self.shortest_s = 0.0  # that an answer took: the way there and back, and little more

    @property
    def connected(self) -> bool:
        """Whether questions can be sent."""
        return self._connected

    def fileno(self) -> int:
        """Return the descriptor that the loop waits for; it is the same for ever."""
        return self._epoll.fileno()

    def send(
        self, statements: Sequence[tuple[str, Parameters]], then: Callable[[Group], None]
    ) -> None:
        """Send statements together; `then` is called with their results. Needs a connection."""
        assert self._connection is not None
        group = Group(then)
        self._groups.append(group)
        try:
            for name, parameters in statements:
                formats = [_BINARY] * len(parameters)
                self._connection.send_query_prepared(
                    name.encode(), parameters, formats, result_format=_BINARY
                )
            self._connection.pipeline_sync()
            self._flush()
        except Error as error:
            self.lose(str(error))

    def work(self) -> None:
        """Go on: connect, receive what has come. Call it at events and once a tick."""
        if self._connected:
            self._receive()
        elif self._connection is not None:
            self._connect()
        while self._connection is None and time.monotonic() >= self._try_at:
            self._start()

    def close(self) -> None:
        """Close it, and connect no more."""
        if self._connection is not None:
            self._connection.finish()
            self._connection = None
        self._connected, self._try_at = False, float("inf")
        self._epoll.close()

    def lose(self, why: str) -> None:
        """Give the connection up; a new one is made soon."""
        self.why = " ".join(why.split())
        groups, self._groups = self._groups, deque()
        if self._connection is not None:
            self._connection.finish()
            self._connection = None
        self._connected, self._events = False, 0
        self._try_at = time.monotonic() + (_RETRY_S if self._hosts.round_is_over else 0.0)
        for group in groups:
            group.error = Lost(self.why)
            group.then(group)
        self._end(self.why)

    def _start(self) -> None:
        self.doubtful = False
        self._began_at = time.monotonic()
        conninfo = self._hosts.next_one(self._began_at)
        self._connection = pq.PGconn.connect_start(conninfo.encode())
        self._connection.notice_handler = self._on_notice
        if self._connection.status == ConnStatus.BAD:
            self.lose(_text(self._connection))
        else:
            self._watch(EPOLLOUT)

    def _connect(self) -> None:
        assert self._connection is not None
        if not self._epoll.poll(0):
            if time.monotonic() > self._began_at + self._hosts.wait_s:
                self._hosts.was_silent(time.monotonic())
                self.lose("the server does not answer")
            return
        poll = PollingStatus(self._connection.connect_poll())
        if poll == PollingStatus.FAILED:
            self.lose(_text(self._connection))
        elif poll == PollingStatus.OK:
            self._prepare(self._connection)
        else:
            self._watch(EPOLLIN if poll == PollingStatus.READING else EPOLLOUT)

    def _watch(self, events: int) -> None:
        """Wait for events on the connection's socket, which may be another one than before."""
        assert self._connection is not None
        self._events, fd = events, self._connection.socket
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def _prepare(self, connection: PGconn) -> None:
        try:
            self.doubtful = False  # warnings of the start are about other things
            self.shortest_s = _SILENCE_S
            connection.nonblocking = 1
            connection.enter_pipeline_mode()
            self._groups.append(Group(lambda group: None))  # some servers cannot do it
            connection.send_query_params(_FIRST, [])
            connection.pipeline_sync()
            self._groups.append(Group(self._on_prepared))
            for name, statement in self._statements.items():
                connection.send_prepare(name.encode(), statement.encode())
            connection.pipeline_sync()
            self._connected = True
            self._watch(EPOLLIN)
            self._flush()
        except Error as error:
            self.lose(str(error))

    def _on_prepared(self, group: Group) -> None:
        if isinstance(group.error, SqlError):
            self.lose(str(group.error))
        elif group.error is None:
            self._begin()

    def _flush(self) -> None:
        assert self._connection is not None
        self._unsent = bool(self._connection.flush())
        events = EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN
        if events != self._events:
            self._watch(events)

    def _receive(self) -> None:
        assert self._connection is not None
        try:
            self._connection.consume_input()
            if self._unsent:
                self._flush()
            while self._groups and self._connected:
                if self._connection.is_busy():
                    break
                self._take(self._connection.get_result())
        except Error as error:
            self.lose(str(error))
            return
        if self._groups and time.monotonic() > self._groups[0].sent_at + self._silence_s:
            self.lose("the server does not answer")

    def _take(self, result: PGresult | None) -> None:
        assert self._connection is not None
        if result is None:
            if self._connection.status == ConnStatus.BAD:
                self.lose(_text(self._connection))
            return
        group = self._groups[0]
        if result.status == ExecStatus.PIPELINE_SYNC:
            self._groups.popleft()
            self.shortest_s = min(self.shortest_s, time.monotonic() - group.sent_at)
            if self.doubtful and group.error is None:
                self._groups.appendleft(group)
                self.lose("a commit was not replicated, or the server is being shut down")
                return
            group.then(group)
        elif result.status == ExecStatus.FATAL_ERROR:
            state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
            text = result.error_message.decode(errors="replace").strip()
            if state[:2] in ("57", "08", ""):  # the server goes, or the statement was cancelled
                self.lose(text)
            elif group.error is None:
                group.error = SqlError(state, text)
        elif result.status != ExecStatus.PIPELINE_ABORTED:
            group.results.append(result)

    def _on_notice(self, result: PGresult) -> None:
        if result.error_field(DiagnosticField.SQLSTATE) == _NOT_REPLICATED:
            self.doubtful = True


def _text(connection: PGconn) -> str:
    return connection.get_error_message()
