"""The wire as the benchmark speaks it: requests encoded beforehand, the replies they must get.

Nothing here is shared with the service on purpose. A load test that took the service's own encoder
would agree with it about anything, and would be the slower for it: here a request is a slice of
bytes that were laid out before the clock started.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

LOADS = ("save", "count", "mixed")
"""What a load consists of: saves, counts, or nine saves and a count in turn on each connection."""

MIXED_COUNT_EVERY = 10
CIRCLE_REQUESTS = 1000
"""Requests a client process encodes; its connections send them round and round. A multiple of
`MIXED_COUNT_EVERY`, so that the mix does not change where the circle closes."""

COUNT_REQUEST = b'{"message": "number_of_users"}\n'
SAVED_REPLY = b'{"message": "Password saved!"}'
COUNT_REPLY_START = b'{"message": "return_number_of_users", "number_of_users": '
COUNT_REPLY_END = b"}"

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
class Point:
    """One place of the grid: which load, over how many connections, how many in flight on each."""

    load: str
    connections: int
    depth: int

    def __str__(self) -> str:
        return f"{self.load} {self.connections}x{self.depth}"


@dataclass(frozen=True, slots=True)
class Script:
    """A circle of requests and the replies they must get, with its beginning repeated at the end.

    The repeated part is as long as the deepest pipeline, so that any run of requests that may be in
    flight at once is a plain slice: request `i` is `requests[starts[i]:starts[i + 1]]`. A reply in
    `replies` is without its newline, and None where a number is expected.
    """

    requests: bytes
    starts: list[int]
    replies: list[bytes | None]
    circle: int = CIRCLE_REQUESTS

    @classmethod
    def of(cls, point: Point, salt: str) -> Script:
        """Write the script of the point's load; passwords differ by `salt` and by request."""
        kinds = [_is_count(point.load, index) for index in range(CIRCLE_REQUESTS)]
        circle = [
            COUNT_REQUEST if is_count else _save_request(f"{salt}-{index:04}-Tr0ub4dor&3")
            for index, is_count in enumerate(kinds)
        ]
        replies = [None if is_count else SAVED_REPLY for is_count in kinds]
        turns = 2 + point.depth // CIRCLE_REQUESTS
        length = CIRCLE_REQUESTS + point.depth
        requests = (circle * turns)[:length]
        starts = [0]
        for request in requests:
            starts.append(starts[-1] + len(request))
        return cls(b"".join(requests), starts, (replies * turns)[:length])


def _is_count(load: str, index: int) -> bool:
    if load == "mixed":
        return index % MIXED_COUNT_EVERY == MIXED_COUNT_EVERY - 1
    return load == "count"


def _save_request(password: str) -> bytes:
    return json.dumps({"message": "save_password", "password": password}).encode() + b"\n"


def number_in(reply: bytes) -> int:
    """Return the number of users that `reply`, without its newline, states."""
    number = reply[len(COUNT_REPLY_START) : -len(COUNT_REPLY_END)]
    if reply.startswith(COUNT_REPLY_START) and number.isdigit() and reply.endswith(COUNT_REPLY_END):
        return int(number)
    raise BenchmarkFailed(f"expected a number of users, the server answered {reply[:200]!r}")


def number_of_users(address: Address) -> int:
    """Ask the server at `address` how many users it has, over a connection of its own."""
    try:
        with address.connect(CONTROL_TIMEOUT_S) as connection, connection.makefile("rb") as replies:
            connection.sendall(COUNT_REQUEST)
            reply = replies.readline()
    except OSError as error:
        raise BenchmarkFailed(f"no answer from {address.host}:{address.port}: {error}") from error
    return number_in(reply.removesuffix(b"\n"))
