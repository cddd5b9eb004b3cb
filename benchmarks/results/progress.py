"""What a run says while it goes on: sentences, and a bar, on standard error; and how it ends."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.client.wire import BenchmarkFailed

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

messages = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), markup=False)
"""On a terminal sentences wrap at words; in a pipe each is one line."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show how far the run is; drawn between measurements only, so that it costs them nothing."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=messages, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        finished = itertools.count()

        def now_at(what: str) -> None:
            bar.update(task, completed=next(finished), description=what, refresh=True)

        yield now_at


@contextmanager
def failures_said() -> Iterator[None]:
    """End the program with a sentence and an exit code where what is done in here fails.

    So does Ctrl-C, and SIGTERM, which would else leave servers behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (BenchmarkFailed, OSError) as failure:
        messages.print(f"failed: {failure}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        messages.print("interrupted; the servers are stopped and their files removed")
        sys.exit(EXIT_INTERRUPTED)
