"""What a run says while it goes on: sentences, and a bar, on standard error."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


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
