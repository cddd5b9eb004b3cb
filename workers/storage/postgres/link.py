"""A connection to PostgreSQL that never waits: questions go into a pipeline, answers come later.

The loop waits for `fd` and calls `work` when it is ready. A connection is made, and made again
after it is lost, in steps (`PQconnectPoll`), so that a worker that waits for a failover still
serves. What is sent together, a `Group`, is answered together. A group whose connection is lost is
told so: what it has done is unknown.

Knows nothing of what the statements mean.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from select import EPOLLIN, EPOLLOUT

from psycopg import Error, pq
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, PollingStatus
from psycopg.pq.abc import PGconn, PGresult

_RETRY_S = 0.1
"""How long after a failed try to connect the next one begins."""

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
    `silence_s` is how long an answer may take before the server counts as gone.
    """

    def __init__(
        self,
        conninfo: str,
        statements: Mapping[str, str],
        begin: Callable[[], None],
        end: Callable[[str], None],
        silence_s: float = 10.0,
    ) -> None:
        self._conninfo = conninfo.encode()
        self._statements = statements
        self._begin, self._end = begin, end
        self._silence_s = silence_s
        self._connection: PGconn | None = None
        self._groups: deque[Group] = deque()
        self._connected = False
        self._poll = PollingStatus.WRITING
        self._try_at = self._began_at = 0.0
        self._unsent = False
        self.doubtful = False  # a commit was not replicated, or the server is being shut down
        self.why = "it was not tried yet"  # there is no connection

    @property
    def connected(self) -> bool:
        """Whether questions can be sent."""
        return self._connected

    @property
    def fd(self) -> int:
        """What the loop waits for; -1: nothing now."""
        return -1 if self._connection is None else self._connection.socket

    @property
    def wants(self) -> int:
        """The events to wait for."""
        if not self._connected:
            return EPOLLIN if self._poll == PollingStatus.READING else EPOLLOUT
        return EPOLLIN | EPOLLOUT if self._unsent else EPOLLIN

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
        if self._connection is None:
            if time.monotonic() < self._try_at:
                return
            self._start()
        elif not self._connected:
            self._connect()
        else:
            self._receive()

    def close(self) -> None:
        """Close it, and connect no more."""
        if self._connection is not None:
            self._connection.finish()
            self._connection = None
        self._connected, self._try_at = False, float("inf")

    def lose(self, why: str) -> None:
        """Give the connection up; a new one is made soon."""
        self.why = " ".join(why.split())
        groups, self._groups = self._groups, deque()
        if self._connection is not None:
            self._connection.finish()
            self._connection = None
        self._connected = False
        self._try_at = time.monotonic() + _RETRY_S
        for group in groups:
            group.error = Lost(self.why)
            group.then(group)
        self._end(self.why)

    def _start(self) -> None:
        self.doubtful = False
        self._began_at = time.monotonic()
        self._poll = PollingStatus.WRITING
        self._connection = pq.PGconn.connect_start(self._conninfo)
        self._connection.notice_handler = self._on_notice
        if self._connection.status == ConnStatus.BAD:
            self.lose(_text(self._connection))

    def _connect(self) -> None:
        assert self._connection is not None
        self._poll = PollingStatus(self._connection.connect_poll())
        if self._poll == PollingStatus.FAILED:
            self.lose(_text(self._connection))
        elif self._poll == PollingStatus.OK:
            self._prepare(self._connection)
        elif time.monotonic() > self._began_at + self._silence_s:
            self.lose("the server does not answer")

    def _prepare(self, connection: PGconn) -> None:
        try:
            connection.nonblocking = 1
            connection.enter_pipeline_mode()
            self._groups.append(Group(self._on_prepared))
            for name, statement in self._statements.items():
                connection.send_prepare(name.encode(), statement.encode())
            connection.pipeline_sync()
            self._connected = True
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
