"""A connection for each request: connect, ask, receive the reply, close, and the next.

Scripts, CGI and a crowd of short-lived processes use a service like this. The latency begins before
`connect` and ends with the reply. Nothing waits: while one connects, others ask or listen. On
loopback a connection is there when `connect` returns, so the request is sent at once, and only if
that fails is it waited for. A server that closes after each reply is measured in the same way.

Whoever closes first keeps its port for a minute, and an address has 28,232 of them. Loopback gives
one back after a second (`tcp_tw_reuse` is 2 by default), but above 13,000 connections a second
Linux searches through thousands of ports: replies took up to 170 ms instead of 20. So connections
are made from several addresses of the loopback network, except those of libpq, which are few.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress

from benchmarks.client.generator import Session
from benchmarks.client.histogram import bucket_of
from benchmarks.client.links import NOT_NOW, Link
from benchmarks.client.replies import Replies
from benchmarks.client.wire import RECEIVE_BYTES, BenchmarkFailed, Job

LOOPBACK = tuple(f"127.0.0.{number}" for number in range(2, 10))
ANY = ("",)
"""The addresses that connections are made from: the latter leaves it to the system."""

CONNECTING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
"""Every change is told once, so that a connection that is made in several steps, as libpq's are,
need not say what each of them waits for."""


class Errand:
    """One connection after another: the request that is under way."""

    __slots__ = ("begun_ns", "left", "link", "position", "received", "replies", "source", "unsent")

    def __init__(self, source: str, position: int, replies: Replies, requests: int) -> None:
        self.source = source
        self.position = position
        self.replies = replies
        self.left = requests
        """How many requests it may still send."""
        self.begun_ns = 0
        self.link: Link | None = None
        self.unsent = b""
        self.received = b""


class OnceSession(Session):
    """As many errands at any moment as the job has connections."""

    def __init__(self, job: Job) -> None:
        if job.access.token or job.access.authority:
            raise BenchmarkFailed(
                "a connection for each request is measured without tokens and TLS only"
            )
        super().__init__(job)
        self.connect = job.access.begin
        self.under_way: dict[int, Errand] = {}
        self.errands = []
        sources = LOOPBACK if job.access.address.host.startswith("127.") else ANY
        for index, requests in enumerate(self.limits):
            replies = self.script.replies()
            self.accounts.append(replies)
            source = sources[index % len(sources)]
            self.errands.append(Errand(source, self.script.position(index), replies, requests))

    def begin(self) -> None:
        """Begin all errands."""
        for errand in self.errands:
            self.set_out(errand, time.perf_counter_ns())

    def handle(self, events: list[tuple[int, int]]) -> None:
        """Ask where a connection is there, and listen where it was asked."""
        for fd, _ in events:
            errand = self.under_way[fd]
            if errand.unsent:
                self.ask(errand)
            else:
                self.listen(errand)

    def close(self) -> None:
        """Close the connections that are under way."""
        for errand in self.errands:
            if errand.link:
                errand.link.close()

    def set_out(self, errand: Errand, now_ns: int) -> None:
        """Begin a connection for the next request, if there is one."""
        if not errand.left:
            return
        errand.left -= 1
        self.in_flight += 1
        errand.begun_ns = now_ns
        errand.unsent = self.script.requests(errand.position, 1)
        errand.link = link = self.connect(errand.source)
        self.ask(errand)
        fd = link.fileno()
        self.under_way[fd] = errand
        self.epoll.register(fd, CONNECTING if errand.unsent else select.EPOLLIN)

    def ask(self, errand: Errand) -> None:
        """Send the request, if the connection is there already."""
        assert errand.link is not None
        with suppress(*NOT_NOW):
            errand.unsent = errand.unsent[errand.link.send(errand.unsent) :]

    def listen(self, errand: Errand) -> None:
        """Take the reply when all of it is there, time and check it, and set out again."""
        link = errand.link
        assert link is not None
        try:
            data = link.recv(RECEIVE_BYTES)
        except NOT_NOW:
            return
        now_ns = time.perf_counter_ns()
        if not data:
            raise BenchmarkFailed("the server closed a connection before the reply was sent")
        errand.received += data
        if not data.endswith(b"\n"):
            return
        link.close()
        errand.link = None
        if now_ns >= self.next_mark_ns:
            self.pass_mark(now_ns)
        self.record(now_ns - errand.begun_ns)
        replies = errand.received.split(b"\n")[:-1]
        errand.received = b""
        if len(replies) > 1:
            raise BenchmarkFailed("the server sent more replies than it was asked for")
        errand.replies.check(errand.position, replies)
        errand.position = (errand.position + 1) % self.script.circle
        if now_ns < self.clock.stop_ns:
            self.set_out(errand, time.perf_counter_ns())

    def record(self, latency_ns: int) -> None:
        """Count a reply."""
        self.in_flight -= 1
        self.replies += 1
        self.counts[bucket_of(latency_ns)] += 1
        self.worst_ns = max(self.worst_ns, latency_ns)
