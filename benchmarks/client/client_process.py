"""A client process of the load test from its first line on: it does the jobs that it is handed.

What a job needs is decided here, before its clock starts: connections that last, or one for each
request.
"""

from __future__ import annotations

import gc
import resource
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

from benchmarks.client.generator import LastingSession, Outcome
from benchmarks.client.once import OnceSession
from benchmarks.client.wire import BenchmarkFailed, Job


def client_main(pipe: Pipe) -> None:
    """Do one job after another as the pipe hands them over, until its other end is closed.

    The order on the pipe, for each job: Job in, None out once connected, Clock in, Outcome out.
    A text out, in place of either, says what failed.
    """
    gc.disable()
    allow_many_files()
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_done(pipe.recv(), pipe))


def allow_many_files(needed: int = 0) -> None:
    """Let this process, and what it starts, open as many files as the machine allows.

    Raises `BenchmarkFailed` where that is less than what is needed.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < needed:
        raise BenchmarkFailed(
            f"{needed:,} open files are needed, and the limit is {most:,}: raise it (ulimit -Hn)"
        )


def _done(job: Job, pipe: Pipe) -> Outcome | str:
    """Do one job; return what was seen, or what failed."""
    once = job.point.once or job.access.closes
    try:
        with OnceSession(job) if once else LastingSession(job) as session:
            pipe.send(None)
            return session.run(pipe.recv())
    except BenchmarkFailed as failure:
        return str(failure)
    except OSError as error:
        return f"a connection failed: {error}"
