"""What a client process does: keeps its connections busy, checks every reply and times it.

Each connection keeps `depth` requests in flight: as many as are answered are sent again, until the
clock stops. Then every request in flight is waited for, so that all acknowledged saves can be
counted. This is a closed loop: a slow server is asked less often, so percentiles are those of the
requests made, not of an arrival rate.

It shares the machine with what it measures, so it is lean: requests and replies are laid out before
the clock starts, and a reply costs one `recv`, one `send`, one reading of the clock, one comparison
and one bucket. `python benchmarks/load.py --against null` shows the ceiling of generator and
loopback, and every run prints the share of a core that the client processes took. Of their time,
checking, timing and choosing what to send is about a fifth; the kernel has most of the rest.

It knows links and scripts, but not which server it talks to. `once.py` opens a connection for each
request.
"""

from __future__ import annotations

import select
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from benchmarks.client.histogram import BUCKETS, PRECISION_BITS, Histogram
from benchmarks.client.links import NOT_NOW, Link
from benchmarks.client.replies import Replies
from benchmarks.client.scripts import script_of
from benchmarks.client.wire import RECEIVE_BYTES, BenchmarkFailed, Job, shares

STALL_TIMEOUT_S = 30.0
"""A client process that gets no reply at all for this long gives the server up for dead."""

CONNECT_TIMEOUT_S = 30.0
NEVER_NS = 1 << 62
WITHOUT_LIMIT = sys.maxsize
HIGHEST_BIT = 1 << PRECISION_BITS


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


class Session(ABC):
    """What a client process does for one job, from the first request to the last reply.

    Here is what is counted, and when; those that derive from it ask and listen. A context manager:
    it ends all connections.
    """

    def __init__(self, job: Job) -> None:
        self.script = script_of(job)
        self.limits = shares(job.requests_max, job.connections)
        """How many requests each connection may send."""
        self.epoll = select.epoll()
        self.accounts: list[Replies] = []
        """What each connection was acknowledged."""
        self.in_flight = self.replies = self.replies_measured = self.worst_ns = 0
        self.counts = [0] * BUCKETS
        self.cpu_s = 0.0
        self.clock = Clock(0, NEVER_NS, NEVER_NS)
        self.next_mark_ns = NEVER_NS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.epoll.close()
        self.close()

    def run(self, clock: Clock) -> Outcome:
        """Ask and listen as `clock` says; return when every request is answered."""
        self.clock = clock
        self.next_mark_ns = clock.measure_ns
        time.sleep(max(clock.start_ns - time.perf_counter_ns(), 0) / 1e9)
        self.begin()
        while self.in_flight:
            events = self.epoll.poll(STALL_TIMEOUT_S)
            if not events:
                raise BenchmarkFailed(
                    f"no reply for {STALL_TIMEOUT_S:.0f} s, {self.in_flight} requests unanswered"
                )
            self.handle(events)
        hits = {bucket: number for bucket, number in enumerate(self.counts) if number}
        return Outcome(
            replies=self.replies_measured,
            users=sum(account.users for account in self.accounts),
            versions=sum(account.versions for account in self.accounts),
            latencies=Histogram(hits, self.worst_ns),
            cpu_s=self.cpu_s,
        )

    @abstractmethod
    def begin(self) -> None:
        """Ask the first requests."""

    @abstractmethod
    def handle(self, events: list[tuple[int, int]]) -> None:
        """Do what the connections are ready for."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""

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


class Connection:
    """One connection's position in the script and what it still waits for."""

    __slots__ = (
        "asked",
        "awaited",
        "check",
        "fd",
        "left",
        "recv",
        "send",
        "sent",
        "tail",
        "unsent",
    )

    def __init__(self, link: Link, position: int, replies: Replies, requests: int) -> None:
        self.fd = link.fileno()
        self.recv = link.recv
        self.send = link.send
        self.asked = position
        """The next request to send."""
        self.awaited = position
        """The request whose reply comes next."""
        self.left = requests
        """How many requests it may still send."""
        self.sent: deque[tuple[int, int]] = deque()
        """Requests in flight: (when sent, how many at once), oldest first."""
        self.check = replies.check
        self.tail = b""
        """The beginning of a reply whose end has not come yet."""
        self.unsent = b""
        """Requests that the socket's buffer had no room for."""


class LastingSession(Session):
    """Connections that are opened before the clock starts, and kept until it has stopped."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.depth = job.point.depth
        self.links: list[Link] = []
        self.connections: dict[int, Connection] = {}
        try:
            for index, requests in enumerate(self.limits):
                link = job.access.link(CONNECT_TIMEOUT_S)
                self.links.append(link)
                link.setblocking(False)
                position, replies = self.script.position(index), self.script.replies()
                self.accounts.append(replies)
                self.connections[link.fileno()] = Connection(link, position, replies, requests)
                self.epoll.register(link.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Fill every connection."""
        for connection in self.connections.values():
            self.ask(connection, self.depth, time.perf_counter_ns())

    def handle(self, events: list[tuple[int, int]]) -> None:
        """Send what can be sent, and take what has arrived."""
        for fd, event in events:
            connection = self.connections[fd]
            if event & select.EPOLLOUT:
                self.flush(connection)
            if event & ~select.EPOLLOUT:
                self.listen(connection)

    def close(self) -> None:
        """Close all connections."""
        for link in self.links:
            link.close()

    def listen(self, connection: Connection) -> None:
        """Take the replies that arrived, check and time them, and ask as many requests again."""
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
