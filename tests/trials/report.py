"""How every trial is started, prints its figures, and ends.

The readers of options, the progress bar and the tables are those of the benchmarks. The exit code
is 0 if every promise was kept, 1 if one was broken or nothing could be tried, and 130 if the trial
was interrupted; the last line says which.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from benchmarks.client.wire import BenchmarkFailed
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet

KEPT = "every promise was kept"


class TrialFailed(BenchmarkFailed):
    """A promise was broken, or nothing could be tried; the text says it in a sentence."""


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser without options for a trial, which its docstring describes."""
    return argparse.ArgumentParser(
        prog=f"python -m tests.trials.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def verdict(success: str = KEPT) -> Iterator[None]:
    """End the trial with its verdict and exit code; so do Ctrl-C and SIGTERM."""
    with failures_said():
        yield
        messages.print(success)


def print_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console | None = None,
) -> None:
    """Print a table whose first column has words, and the others figures."""
    print_sheet(Sheet(title, [*headings], [[*row] for row in rows]), console)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of all values is."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]
