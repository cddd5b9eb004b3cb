"""A client process: keeps its connections busy, checks every reply and times it.

Each connection keeps `depth` requests in flight: as many as are answered are sent anew, until the
clock stops, and then every request in flight is waited for, so that nothing is left unanswered and
the saves that were acknowledged can be counted to the last one. This is a closed loop: a slow
server is asked less often, so percentiles are those of the requests made, not of an arrival rate.

It shares the machine with what it measures, so it is lean: requests and replies are laid out before
the clock starts, and a reply costs one `recv`, one `send`, one reading of the clock, one comparison
and one bucket. How that was checked: `python benchmarks/load.py --against null` puts the
same loads on a server that answers constants, which shows the ceiling of generator and loopback,
and every run prints the share of a core that the client processes took (column "client CPU"). On
the null server its user and system time were also held against a loop of nothing but `epoll`,
`recv` and `send`: the kernel's work in those three is most of what a request costs here, and
checking, timing and choosing what to send is about a fifth.

Knows sockets and scripts; knows nothing of which server it talks to or what becomes of the times.
"""

from __future__ import annotations

import gc
import select
import socket
import ssl
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from histogram import BUCKETS, PRECISION_BITS, Histogram
from replies import Replies
from scripts import script_of
from wire import BenchmarkFailed, Job, shares

RECEIVE_BYTES = 65536
STALL_TIMEOUT_S = 30.0
"""A client process that gets no reply at all for this long gives the server up for dead."""

CONNECT_TIMEOUT_S = 30.0
NEVER_NS = 1 << 62
WITHOUT_LIMIT = sys.maxsize
HIGHEST_BIT = 1 << PRECISION_BITS

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket says that has nothing to give, or no room: the latter two are those of TLS."""


@dataclass(frozen=True, slots=True)
class Clock:
    """When to start, to begin measuring and to stop asking, as `perf_counter_ns`.

    On Linux that clock is one for all processes, so a time is enough to start them together.
    """

    start_ns: int
    measure_ns: int
    stop_ns: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client process saw.

    `replies` are those of the measured time alone; `users` and `versions` are all that were ever
    acknowledged: new users, and versions of the prepared ones. The latencies include the replies
    waited for at the end: leaving them out would hide the worst.
    """

    replies: int
    users: int
    versions: int
    latencies: Histogram
    cpu_s: float

    @classmethod
    def merged(cls, parts: list[Outcome]) -> Outcome:
        """Add up what several client processes saw."""
        return cls(
            replies=sum(part.replies for part in parts),
            users=sum(part.users for part in parts),
            versions=sum(part.versions for part in parts),
            latencies=Histogram.merged(part.latencies for part in parts),
            cpu_s=sum(part.cpu_s for part in parts),
        )


class Connection:
    """One connection's place in the script and what it still waits for."""

    __slots__ = (
        "asked",
        "awaited",
        "check",
        "fd",
        "left",
        "recv",
        "replies",
        "send",
        "sent",
        "tail",
        "unsent",
    )

    def __init__(self, sock: socket.socket, place: int, replies: Replies, requests: int) -> None:
        self.fd = sock.fileno()
        self.recv = sock.recv
        self.send = sock.send
        self.asked = place
        """The next request to send."""
        self.awaited = place
        """The request whose reply comes next."""
        self.left = requests
        """How many requests it may still send."""
        self.sent: deque[tuple[int, int]] = deque()
        """Requests in flight: (when sent, how many at once), oldest first."""
        self.replies = replies
        self.check = replies.check
        self.tail = b""
        """The beginning of a reply whose end has not come yet."""
        self.unsent = b""
        """Requests that the socket's buffer had no room for."""


class Session:
    """A client process's connections for one job, from the first request to the last reply."""

    def __init__(self, job: Job, sockets: list[socket.socket]) -> None:
        self.depth = job.point.depth
        self.script = script_of(job)
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        limits = shares(job.requests_max, len(sockets))
        for index, sock in enumerate(sockets):
            place, replies = self.script.place(index), self.script.replies()
            connection = Connection(sock, place, replies, limits[index])
            self.connections[connection.fd] = connection
            self.epoll.register(connection.fd, select.EPOLLIN)
        self.in_flight = self.replies = self.replies_measured = self.worst_ns = 0
        self.counts = [0] * BUCKETS
        self.cpu_s = 0.0
        self.clock = Clock(0, NEVER_NS, NEVER_NS)
        self.next_mark_ns = NEVER_NS

    def run(self, clock: Clock) -> Outcome:
        """Ask and listen as `clock` says; return when every request is answered."""
        self.clock = clock
        self.next_mark_ns = clock.measure_ns
        time.sleep(max(clock.start_ns - time.perf_counter_ns(), 0) / 1e9)
        for connection in self.connections.values():
            self.ask(connection, self.depth, time.perf_counter_ns())
        while self.in_flight:
            events = self.epoll.poll(STALL_TIMEOUT_S)
            if not events:
                raise BenchmarkFailed(
                    f"no reply for {STALL_TIMEOUT_S:.0f} s, {self.in_flight} requests unanswered"
                )
            for fd, event in events:
                connection = self.connections[fd]
                if event & select.EPOLLOUT:
                    self.flush(connection)
                if event & ~select.EPOLLOUT:
                    self.listen(connection)
        accounts = [connection.replies for connection in self.connections.values()]
        return Outcome(
            replies=self.replies_measured,
            users=sum(account.users for account in accounts),
            versions=sum(account.versions for account in accounts),
            latencies=Histogram.of_buckets(self.counts, self.worst_ns),
            cpu_s=self.cpu_s,
        )

    def listen(self, connection: Connection) -> None:
        """Take the replies that arrived, check and time them, and ask as many requests anew."""
        try:
            data = connection.recv(RECEIVE_BYTES)
        except NOT_NOW:  # TLS had something to say by itself
            return
        now_ns = time.perf_counter_ns()
        if not data:
            raise BenchmarkFailed("the server closed a connection that still waited for replies")
        replies = (connection.tail + data).split(b"\n")
        connection.tail = replies.pop()
        arrived = len(replies)
        if now_ns >= self.next_mark_ns:
            self.pass_mark(now_ns)
        self.record(connection, arrived, now_ns)
        first = connection.awaited
        connection.awaited = (first + arrived) % self.script.circle
        connection.check(first, replies)
        if now_ns < self.clock.stop_ns and arrived:
            self.ask(connection, arrived, now_ns)

    def pass_mark(self, now_ns: int) -> None:
        """Begin the measured time when the warm-up is over, and end it when the clock stops."""
        if self.next_mark_ns == self.clock.measure_ns:
            self.next_mark_ns = self.clock.stop_ns
            self.counts = [0] * BUCKETS
            self.replies = self.worst_ns = 0
            self.cpu_s = time.process_time()
        if now_ns >= self.next_mark_ns:
            self.next_mark_ns = NEVER_NS
            self.replies_measured = self.replies
            self.cpu_s = time.process_time() - self.cpu_s

    def record(self, connection: Connection, arrived: int, now_ns: int) -> None:
        """Count the latencies of `arrived` replies: those sent together arrive in few buckets."""
        self.replies += arrived
        self.in_flight -= arrived
        sent = connection.sent
        while arrived:
            if not sent:
                raise BenchmarkFailed("the server sent more replies than it was asked for")
            sent_ns, together = sent.popleft()
            if together > arrived:
                sent.appendleft((sent_ns, together - arrived))
                together = arrived
            arrived -= together
            latency_ns = now_ns - sent_ns
            shift = (latency_ns | HIGHEST_BIT).bit_length() - PRECISION_BITS - 1
            self.counts[(shift << PRECISION_BITS) + (latency_ns >> shift)] += together
            if latency_ns > self.worst_ns:  # noqa: PLR1730 - max() costs more than the rest of it
                self.worst_ns = latency_ns

    def ask(self, connection: Connection, number: int, now_ns: int) -> None:
        """Send the next `number` requests of the script, fewer if it has fewer left."""
        number = min(number, connection.left)
        if not number:
            return
        connection.left -= number
        self.in_flight += number
        first = connection.asked
        connection.asked = (first + number) % self.script.circle
        connection.sent.append((now_ns, number))
        requests = self.script.requests(first, number)
        if connection.unsent:
            connection.unsent += requests
            return
        try:
            sent_bytes = connection.send(requests)
        except NOT_NOW:
            sent_bytes = 0
        if sent_bytes < len(requests):
            connection.unsent = requests[sent_bytes:]
            self.epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def flush(self, connection: Connection) -> None:
        """Send what the socket had no room for, now that it says it has."""
        with suppress(*NOT_NOW):
            connection.unsent = connection.unsent[connection.send(connection.unsent) :]
        if not connection.unsent:
            self.epoll.modify(connection.fd, select.EPOLLIN)


def client_main(pipe: Pipe) -> None:
    """Do one job after another as the pipe hands them over, until its other end is closed.

    The order on the pipe, for each job: Job in, None out once connected, Clock in, Outcome out.
    A text out, in place of either, says what failed.
    """
    gc.disable()
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_done(pipe.recv(), pipe))


def _done(job: Job, pipe: Pipe) -> Outcome | str:
    """Do one job; return what was seen, or what failed."""
    try:
        return _do(job, pipe)
    except BenchmarkFailed as failure:
        return str(failure)
    except OSError as error:
        return f"a connection failed: {error}"


def _do(job: Job, pipe: Pipe) -> Outcome:
    sockets: list[socket.socket] = []
    try:
        for _ in range(job.connections):
            sockets.append(job.access.connect(CONNECT_TIMEOUT_S))
            sockets[-1].setblocking(False)
        session = Session(job, sockets)
        pipe.send(None)
        with session.epoll:
            return session.run(pipe.recv())
    finally:
        for sock in sockets:
            sock.close()
