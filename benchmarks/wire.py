"""The wire as the benchmark speaks it: how servers are reached, and what is asked of them.

Nothing here is shared with the service on purpose. A load test that took the service's own encoder
would agree with it about anything, and would be the slower for it: here requests and replies are
plain bytes, and those of a load are laid out before the clock starts (`scripts.py`). This file has
the seed's exchanges and what all parts of the load test name things by; `book.py` has the book's.
"""

from __future__ import annotations

import functools
import json
import socket
import ssl
from dataclasses import dataclass, field

SEED_LOADS = ("save", "count", "mixed")
"""What every server knows: saves, counts, or nine saves and a count in turn on each connection."""

BOOK_LOADS = ("named", "new", "get", "verify", "list")
"""What needs a book of names: saves under a name that is there, and under a new one; reading a
password, comparing one, and listing the users of a prefix, all of users that are there."""

LOADS = (*SEED_LOADS, *BOOK_LOADS)
PREPARE = "prepare"
"""Not a load to measure: saves every user of the book's loads for the first time."""

TOKEN, TLS = WAYS = ("token", "tls")
"""What a server is called that is pwserver as it is, but for the way in: all loads are those of an
application that has shown a token, or all go over TLS."""

COUNT_REQUEST = b'{"message": "number_of_users"}\n'
SAVED_REPLY = b'{"message": "Password saved!"}'
COUNT_REPLY_START = b'{"message": "return_number_of_users", "number_of_users": '
COUNT_REPLY_END = b"}"
AUTHENTICATED_START = b'{"message":"Authenticated!"'

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


@dataclass(frozen=True, slots=True)
class Access:
    """A way into a server: where it listens, and what its clients show and trust there.

    A `token` is shown, and answered, before a connection is handed out. `authority`, where it is
    set, is a file with the certificate to trust, and everything goes over TLS: by the sockets of
    `ssl`, which cost a client process 2.5 microseconds more a request than plain ones.
    """

    address: Address
    token: str = field(default="", repr=False)
    authority: str = ""

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
    """How the loads get into a server: those of the seed, as a rule as guests, and the book's."""

    seed: Access
    book: Access

    def of(self, load: str) -> Access:
        """Return the way of a load."""
        return self.book if load in (*BOOK_LOADS, PREPARE) else self.seed


@dataclass(frozen=True, slots=True)
class Point:
    """One place of the grid: which load, over how many connections, how many in flight on each."""

    load: str
    connections: int
    depth: int

    @property
    def size(self) -> tuple[int, int]:
        """Return what two loads must have in common to be compared."""
        return self.connections, self.depth

    def __str__(self) -> str:
        return f"{self.load} {self.connections}x{self.depth}"


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


def number_in(reply: bytes) -> int:
    """Return the number of users that `reply`, without its newline, states."""
    number = reply[len(COUNT_REPLY_START) : -len(COUNT_REPLY_END)]
    if reply.startswith(COUNT_REPLY_START) and number.isdigit() and reply.endswith(COUNT_REPLY_END):
        return int(number)
    raise BenchmarkFailed(f"expected a number of users, the server answered {reply[:200]!r}")


class Control:
    """A connection of its own for questions outside the load; use it as a context manager."""

    def __init__(self, access: Access) -> None:
        self._address = access.address
        try:
            self._socket = access.connect(CONTROL_TIMEOUT_S)
        except OSError as error:
            raise self._failed(error) from error
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request, a line, and return its reply, without the newline."""
        return self.ask_all([request])[0]

    def ask_all(self, requests: list[bytes]) -> list[bytes]:
        """Send requests at once and return their replies; not more than a server takes unread."""
        try:
            self._socket.sendall(b"".join(requests))
            return [self._replies.readline().removesuffix(b"\n") for _ in requests]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BenchmarkFailed:
        where = f"{self._address.host}:{self._address.port}"
        return BenchmarkFailed(f"no answer from {where}: {error}")


def number_of_users(access: Access) -> int:
    """Ask a server how many users it has."""
    with Control(access) as control:
        return number_in(control.ask(COUNT_REQUEST))
