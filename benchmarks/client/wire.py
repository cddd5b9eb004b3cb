"""How servers are reached, and what all parts of the load test name things by.

Nothing here is shared with the service on purpose. A load test that used the service's own encoder
would agree with it about anything, and would be slower: here requests and replies are plain bytes.
`dialects.py` has the basic contract's exchanges in every protocol, and `book.py` the book's.
"""

from __future__ import annotations

import functools
import json
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.client.dialects import DIALECTS
from benchmarks.client.links import HttpLink, Link

BASIC_LOADS = ("save", "count", "mixed")
"""What every server knows: saves, counts, or nine saves and a count in turn on each connection."""

BOOK_LOADS = ("named", "new", "get", "verify", "list")
"""What needs a book of names: saves under a name that is there, and under a new one; reading a
password, comparing one, and listing the users of a prefix, all of users that are there."""

LOADS = (*BASIC_LOADS, *BOOK_LOADS)
PREPARE = "prepare"
"""Not a load to measure: saves every user of the book's loads for the first time."""

TOKEN, TLS = WAYS = ("token", "tls")
"""What a server is called that is pwserver as it is, but for the way in: all loads are those of an
application that has shown a token, or all go over TLS."""

AUTHENTICATED_START = b'{"message":"Authenticated!"'

LINES = "lines"
"""The dialect of pwserver, and of the servers that are written to be like it."""

RECEIVE_BYTES = 65536
CONTROL_TIMEOUT_S = 60.0
"""How long one question outside the load may take: the baseline counts a table row by row."""


class BenchmarkFailed(Exception):
    """The run is worthless, and the text says why in a sentence for the person who started it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`; raise ValueError if it is something else."""
        host, colon, port = text.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise ValueError(f"expected HOST:PORT, got {text!r}")
        return cls(host.strip("[]"), int(port))

    def connect(self, timeout_s: float) -> socket.socket:
        """Open a connection whose small packets are not held back."""
        connection = socket.create_connection((self.host, self.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def begin(self, source: str) -> socket.socket:
        """Begin to open a connection that never waits, from an address of this machine, or any.

        A port is found for both ends together, by `connect`, and not for ours alone, by `bind`.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if source:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((source, 0))
        with suppress(BlockingIOError):  # under way
            connection.connect((self.host, self.port))
        return connection


@dataclass(frozen=True, slots=True)
class Access:
    """A way into a server: where it listens, and what its clients show and trust there.

    A `token` is shown, and answered, before a connection is handed out. `authority`, where it is
    set, is a file with the certificate to trust, and everything goes over TLS: by the sockets of
    `ssl`, which cost a client process 2.5 microseconds more a request than plain ones. `dialect` is
    what is spoken there (`dialects.py`); tokens, TLS and the book's loads are for lines alone.
    `closes` says that the server closes each connection behind its first reply.
    """

    address: Address
    token: str = field(default="", repr=False)
    authority: str = ""
    dialect: str = LINES
    closes: bool = False

    def connect(self, timeout_s: float) -> socket.socket:
        """Open a connection on which requests may follow; raise OSError or `BenchmarkFailed`."""
        connection = self.address.connect(timeout_s)
        try:
            if self.authority:
                context = _tls_context(self.authority)
                connection = context.wrap_socket(connection, server_hostname=self.address.host)
            if self.token:
                self._authenticate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def link(self, timeout_s: float) -> Link:
        """Open a connection like `connect`, on which whatever is spoken there reads as lines."""
        if self.dialect == "postgres":
            from benchmarks.client.postgres_link import PostgresLink  # noqa: PLC0415 - psycopg may not be installed

            return PostgresLink(self.address.host, self.address.port, timeout_s)
        connection = self.connect(timeout_s)
        return HttpLink(connection) if self.dialect == "http" else connection

    def begin(self, source: str) -> Link:
        """Begin to open a connection for one request, as a guest and without TLS; do not wait.

        It comes from the address `source` of this machine, or from any, where that is empty.
        """
        if self.dialect == "postgres":
            from benchmarks.client.postgres_link import PostgresVisit  # noqa: PLC0415 - as above

            return PostgresVisit(self.address.host, self.address.port)
        connection = self.address.begin(source)
        return HttpLink(connection) if self.dialect == "http" else connection

    def _authenticate(self, connection: socket.socket) -> None:
        request = {"message": "authenticate", "token": self.token}
        connection.sendall(json.dumps(request).encode() + b"\n")
        reply = connection.recv(1024)
        if not reply.startswith(AUTHENTICATED_START):
            raise BenchmarkFailed(f"a token was shown, and the server answered {reply!r}")


@functools.cache
def _tls_context(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


@dataclass(frozen=True, slots=True)
class Ways:
    """How the loads get into a server: the basic contract's (mostly as guests), and the book's."""

    basic: Access
    book: Access

    def of(self, load: str) -> Access:
        """Return the way of a load."""
        return self.book if load in (*BOOK_LOADS, PREPARE) else self.basic


ONCE = "once"
"""How the command line and the tables write a connection for each request: `64once`."""

Size = tuple[int, int, bool]
"""Connections, requests in flight on each, and whether each request has a connection of its own."""


@dataclass(frozen=True, slots=True)
class Point:
    """One place of the grid: which load, over how many connections, how many in flight on each.

    With `once`, every request has a connection of its own, which is closed behind the reply, and
    `connections` is how many of them there are at any moment.
    """

    load: str
    connections: int
    depth: int
    once: bool = False

    @property
    def size(self) -> Size:
        """Return what two loads must have in common to be compared."""
        return self.connections, self.depth, self.once

    def __str__(self) -> str:
        return f"{self.load} {self.connections}{ONCE if self.once else f'x{self.depth}'}"


def points(loads: Iterable[str], sizes: Sequence[Size]) -> list[Point]:
    """Return every load at every size."""
    return [Point(load, *size) for load in loads for size in sizes]


@dataclass(frozen=True, slots=True)
class Job:
    """What one client process is to do: its share of the connections, and of the requests if the
    job is a number of requests.

    `salt` is another for every job of every process, so that passwords, new names and the order in
    which users are drawn differ. `users` is how many users were prepared; of `PREPARE` the process
    does `requests_max` from number `first` on.
    """

    access: Access
    point: Point
    connections: int
    requests_max: int
    salt: str
    users: int = 0
    first: int = 0


def shares(total: int, parts: int) -> list[int]:
    """Cut `total` into even shares, the larger ones first."""
    each, rest = divmod(total, parts)
    return [each + (index < rest) for index in range(parts)]


class Control:
    """A connection of its own for questions outside the load; use it as a context manager."""

    def __init__(self, access: Access) -> None:
        self._address = access.address
        try:
            self._link = access.link(CONTROL_TIMEOUT_S)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request, a line, and return its reply, without the newline."""
        return self.ask_all([request])[0]

    def ask_all(self, requests: list[bytes]) -> list[bytes]:
        """Send requests at once and return their replies; not more than a server takes unread."""
        unsent = b"".join(requests)
        replies: list[bytes] = []
        tail = b""
        try:
            while unsent:
                unsent = unsent[self._link.send(unsent) :]
            while len(replies) < len(requests):
                data = self._link.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionError("it closed the connection")
                *whole, tail = (tail + data).split(b"\n")
                replies += whole
        except OSError as error:
            raise self._failed(error) from error
        return replies

    def _failed(self, error: OSError) -> BenchmarkFailed:
        where = f"{self._address.host}:{self._address.port}"
        return BenchmarkFailed(f"no answer from {where}: {error}")


def number_of_users(access: Access) -> int:
    """Ask a server how many users it has."""
    dialect = DIALECTS[access.dialect]
    with Control(access) as control:
        reply = control.ask(dialect.count_request)
    try:
        return dialect.number_in(reply)
    except ValueError as error:
        raise BenchmarkFailed(str(error)) from None
