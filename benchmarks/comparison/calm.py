"""The sections with pwserver alone: idle connections beside the load, a steady minute, the start.

What a contender does there would say little of it: these are figures that are held against aims.
"""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack

from benchmarks.client.dialects import SAVED_REPLY, save_line
from benchmarks.client.idle import Idle
from benchmarks.client.wire import Access, BenchmarkFailed, Control, Point
from benchmarks.comparison.bench import USUAL, Bench, points
from benchmarks.comparison.kept import REFERENCE
from benchmarks.results.progress import messages
from benchmarks.servers.service import Service

WITH_IDLE = f"{REFERENCE}, idle connections"
PER_IDLE = "memory of an idle connection"
LISTENING = "from exec to listening"
FIRST_REPLY = "from exec to the first reply to a save"
IDLE_MEMORY = "memory with 2 workers"

SPARE_FILES = 2000
"""Files that a service opens beside its idle connections: those of the load, and its own."""


def idle(bench: Bench) -> None:
    """Measure a service with idle connections beside one without."""
    number = bench.pace.idle_connections
    raise_file_limit(number + SPARE_FILES)
    with ExitStack() as stack:
        alone = bench.subject(stack, Service(REFERENCE, bench.home()))
        beside = bench.subject(stack, Service(WITH_IDLE, bench.home()))
        before = beside.target.usage().memory_bytes
        stack.enter_context(Idle(beside.ways.seed, number))
        after = beside.target.usage().memory_bytes
        bench.keep("idle", PER_IDLE, "bytes", [(after - before) / number])
        wanted = points(["save", "count"], [USUAL])
        bench.contest("idle", [(alone, wanted), (beside, wanted)])


def steady(bench: Bench) -> None:
    """Measure saves for a minute without a pause."""
    with ExitStack() as stack:
        subject = bench.subject(stack, Service(REFERENCE, bench.home()))
        bench.contest("steady", [(subject, [Point("save", *USUAL)])], bench.pace.steady_s)


def start(bench: Bench) -> None:
    """Measure how soon a service is there, and what it has of memory before anybody asks more.

    The first start makes the database and the key, the others find them.
    """
    home = bench.home()
    listening, first_reply, memory = [], [], []
    for _ in range(bench.pace.starts):
        with Service(REFERENCE, home, ["--workers", "2"]) as service:
            with Control(Access(service.address)) as control:
                reply = control.ask(save_line("the first password"))
            now_s = time.monotonic()
            if reply != SAVED_REPLY:
                raise BenchmarkFailed(f"{REFERENCE} answered the first save with {reply!r}")
            listening.append(service.listening_s - service.exec_s)
            first_reply.append(now_s - service.exec_s)
            service.settle()
            memory.append(float(service.usage().memory_bytes))
    bench.keep("start", LISTENING, "s", listening)
    bench.keep("start", FIRST_REPLY, "s", first_reply)
    bench.keep("start", IDLE_MEMORY, "bytes", memory)


def raise_file_limit(files: int) -> None:
    """Let this process and what it starts open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < files:
        raise BenchmarkFailed(
            f"idle connections need {files:,} open files, and the limit is {hard:,}; raise it with "
            "`ulimit -Hn`, or leave the section out with --sections"
        )
    messages.print(f"  up to {hard:,} open files")
