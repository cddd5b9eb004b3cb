"""How every trial is started, shows how far it is, prints its figures, and ends.

The exit code is 0 where every promise was kept, 1 where one was broken or nothing could be tried,
and 130 where the trial was interrupted; the last line says which.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PIPED_COLUMNS = 150
"""Wide enough for every table when there is no terminal to ask."""

KEPT = "every promise was kept"

messages = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), markup=False)
"""What a trial says while it goes on; in a pipe each sentence is one line."""


class TrialFailed(Exception):
    """A promise was broken, or nothing could be tried; the text says it in a sentence."""


# --- The command line. ---


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser without options for a trial, which its docstring describes."""
    return argparse.ArgumentParser(
        prog=f"python -m tests.trials.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """Read a whole number from 1 up."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return int(text)


def above_zero(text: str) -> float:
    """Read a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def words(*allowed: str) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated words out of `allowed`."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [word for word in found if word not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(allowed)}")
        return list(dict.fromkeys(found))

    return read


# --- The run. ---


@contextmanager
def verdict(success: str = KEPT) -> Iterator[None]:
    """End the trial with its verdict and exit code; so do Ctrl-C and SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (TrialFailed, OSError) as failure:
        messages.print(f"failed: {failure}")
        sys.exit(1)
    except KeyboardInterrupt:
        messages.print("interrupted; the services are stopped and their files removed")
        sys.exit(130)
    messages.print(success)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show how far the trial is; drawn between measurements only, so that it costs them nothing."""
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


# --- Figures. ---


def terminal() -> Console:
    """Return standard output, as wide as the terminal is."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_COLUMNS
    return console


def print_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console | None = None,
) -> None:
    """Print a table whose first column has words, and the others figures."""
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    (console or terminal()).print(table)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of all values is."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]
