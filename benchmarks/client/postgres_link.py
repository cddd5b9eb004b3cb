"""PostgreSQL as the load generator speaks it: libpq by psycopg's `pq`, without psycopg's cursors.

A request is a line, the name of a statement and its parameter (`dialects.py`); a reply is what the
server says of a save, the number that it counted, or its error. Each request is a transaction of
its own, also in libpq's pipeline mode, which is used for several in flight. A reply counts when the
server is ready for the next request, which is after the commit.

Nearly all Python programs talk to PostgreSQL through libpq. With the C implementation
(psycopg[binary]) a request takes 15 to 18 microseconds of a client process at 64 connections, where
one to Redis takes 8 to 13; with a connection of its own 170 instead of 45; with 64 in flight 18
instead of 0.4, because libpq sends each sync by itself. On shared processors the server loses that.

psycopg is needed only to measure PostgreSQL, so this file is imported when it is first used.
"""

from __future__ import annotations

from psycopg import Error
from psycopg.pq import ConnStatus, ExecStatus, PGconn, PollingStatus, abc

from benchmarks.client.dialects import POSTGRES_STATEMENTS
from benchmarks.client.links import on_one_line

_SQL = {name.encode(): sql.encode() for name, sql in POSTGRES_STATEMENTS.items()}


class _Libpq:
    """What both kinds of connections have in common."""

    def __init__(self, connection: abc.PGconn) -> None:
        self._connection = connection
        self._reply = b""

    def fileno(self) -> int:
        """Return libpq's socket, which stays the same: there is one address, and no encryption."""
        fd: int = self._connection.socket
        return fd

    def close(self) -> None:
        """Take leave of the server, and close the socket."""
        self._connection.finish()

    def _read(self) -> None:
        """Take in what has arrived."""
        try:
            self._connection.consume_input()
        except Error as error:
            raise _failure(f"PostgreSQL is gone: {error}") from None


class PostgresLink(_Libpq):
    """A connection to PostgreSQL, with the statements prepared; see `links.Link`."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        patience = b" connect_timeout=%d" % timeout_s
        super().__init__(PGconn.connect(_where(host, port) + patience))
        if self._connection.status != ConnStatus.OK:
            raise _failure(self._connection.get_error_message())
        for name, sql in _SQL.items():
            if self._connection.prepare(name, sql).status != ExecStatus.COMMAND_OK:
                raise _failure(self._connection.get_error_message())
        self._blocking = True
        self._pipelined = False
        self._unanswered = 0

    def setblocking(self, flag: bool) -> None:
        """Have `recv` wait, or not. Sending may wait: libpq reads meanwhile, so it always ends."""
        self._blocking = flag

    def send(self, requests: bytes) -> int:
        """Send requests; several at once begin the pipeline mode, in which it then stays."""
        lines = requests.splitlines()
        try:
            if len(lines) > 1 and not self._pipelined:
                self._connection.enter_pipeline_mode()
                self._pipelined = True
            for line in lines:
                name, _, password = line.partition(b" ")
                self._connection.send_query_prepared(name, [password] if password else [])
                if self._pipelined:
                    self._connection.pipeline_sync()
        except Error as error:
            raise _failure(f"PostgreSQL is gone: {error}") from None
        self._unanswered += len(lines)
        return len(requests)

    def recv(self, _: int) -> bytes:
        """Return the replies that are there; raise BlockingIOError if none is."""
        self._read()
        replies = []
        while self._unanswered and (self._blocking or not self._connection.is_busy()):
            result = self._connection.get_result()
            if self._ends_reply(result):
                replies.append(self._reply)
                self._unanswered -= 1
            elif result is not None:
                self._reply = _reply_in(result)
            elif self._connection.status == ConnStatus.BAD:  # nothing else will ever come
                raise _failure(self._connection.get_error_message())
        if not replies:
            raise BlockingIOError
        return b"".join(replies)

    def _ends_reply(self, result: abc.PGresult | None) -> bool:
        """Tell whether this stands for "ready for the next", rather than for a reply."""
        if self._pipelined:
            return result is not None and result.status == ExecStatus.PIPELINE_SYNC
        return result is None


class PostgresVisit(_Libpq):
    """A connection that is begun, asked one thing, and closed; nothing is prepared. See `Link`."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(PGconn.connect_start(_where(host, port)))

    def setblocking(self, flag: bool) -> None:
        """Do nothing: a visit never waits."""

    def send(self, request: bytes) -> int:
        """Go on connecting, and send the request when that is done; else raise BlockingIOError."""
        progress = self._connection.connect_poll()
        if progress == PollingStatus.FAILED:
            raise _failure(self._connection.get_error_message())
        if progress != PollingStatus.OK:
            raise BlockingIOError
        name, _, password = request.rstrip().partition(b" ")
        try:
            self._connection.send_query_params(_SQL[name], [password] if password else [])
        except Error as error:
            raise _failure(f"PostgreSQL is gone: {error}") from None
        return len(request)

    def recv(self, _: int) -> bytes:
        """Return the reply; raise BlockingIOError while it is not there."""
        self._read()
        while not self._connection.is_busy():
            result = self._connection.get_result()
            if result is None:
                return self._reply
            self._reply = _reply_in(result)
        raise BlockingIOError


def _where(host: str, port: int) -> bytes:
    """Say where to connect, plainly as to all others: to offer encryption costs a round trip."""
    where = f"host={host} port={port} user=postgres dbname=postgres"
    return f"{where} sslmode=disable gssencmode=disable".encode()


def _reply_in(result: abc.PGresult) -> bytes:
    """Return what a result says, as a line."""
    status = result.status
    if status == ExecStatus.COMMAND_OK:
        said = result.command_status
    elif status == ExecStatus.TUPLES_OK:
        said = result.get_value(0, 0)
    else:
        said = result.error_message
    return on_one_line(said or b"")


def _failure(said: str) -> ConnectionError:
    """Return what libpq says, in one line."""
    return ConnectionError(" ".join(said.split()))
