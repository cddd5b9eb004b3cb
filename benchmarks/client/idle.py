"""Connections on which nobody says anything.

The run itself holds them, so that the client processes that make the load are the same with them
and without. Linux finds their ports among the 28,232 of a loopback address, so 20,000 are about as
many as can be held beside a load.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from benchmarks.client.wire import Access, BenchmarkFailed

CONNECT_TIMEOUT_S = 30.0


@contextmanager
def idle(access: Access, connections: int) -> Iterator[None]:
    """Hold so many silent connections; raise `BenchmarkFailed` if the server closes any of them."""
    silent = select.poll()
    with ExitStack() as stack:
        try:
            for _ in range(connections):
                link = stack.enter_context(closing(access.link(CONNECT_TIMEOUT_S)))
                silent.register(link.fileno(), select.POLLIN | select.POLLRDHUP)
        except OSError as error:
            raise BenchmarkFailed(f"an idle connection could not be opened: {error}") from error
        yield
        if disturbed := len(silent.poll(0)):
            raise BenchmarkFailed(f"{disturbed:,} idle connections did not stay open")
