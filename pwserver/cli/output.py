"""What the commands print: sentences and tables for people, JSON lines for programs.

These functions do not ask the service. They are given a password only if it is to be shown. What
comes from the service may hold control characters, so a terminal gets it escaped.

On a terminal, sentences wrap at words, and numbers and times stay on one line. A table that is too
wide is printed without its least important columns, or as a line for each field.
"""

import functools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, TextIO

from pwserver.text import visible

Record = Mapping[str, Any]

HIDDEN = "(hidden; --show)"

_GAP = 3
"""Spaces between two columns of a table."""

_TEXT_WIDTH_MIN = 12
"""The least width of a column whose texts are longer."""


def on_terminal() -> bool:
    """Return whether standard output is a terminal, so that a person reads it."""
    return sys.stdout.isatty()


def text(text: str) -> None:
    """Print a text as it is; on a terminal, with control characters escaped."""
    print(visible(text) if on_terminal() else text)


def done(sentence: str, record: Record, *, as_json: bool) -> None:
    """Print the result: a sentence on a terminal, otherwise a JSON line."""
    if as_json or not on_terminal():
        _print_json(record)
    else:
        _say(sentence, sys.stdout)


def plain(lines: Sequence[str], record: Record, *, as_json: bool) -> None:
    """Print the same lines for people and programs, or with `as_json` a record."""
    if as_json:
        _print_json(record)
        return
    for line in lines:
        _say(line, sys.stdout)


def said(sentence: str, record: Record, *, as_json: bool) -> None:
    """Print what was done on standard error, or with `as_json` a record on standard output."""
    if as_json:
        _print_json(record)
    else:
        tell(sentence)


def record(record: Record, *, as_json: bool) -> None:
    """Print one record: a line for each field on a terminal, otherwise a JSON line."""
    if as_json or not on_terminal():
        _print_json(record)
    else:
        _print_fields(record)


def records(records: Iterable[Record], *, as_json: bool, least: Sequence[str] = ()) -> None:
    """Print records with the same fields: a table on a terminal, otherwise a JSON line for each.

    A table that is too wide loses the fields in `least`, the first of them first.
    """
    if as_json or not on_terminal():
        for record in records:
            _print_json(record)
    else:
        _print_table(list(records), least)


def tell(sentence: str) -> None:
    """Print a sentence for people on standard error."""
    _say(sentence, sys.stderr)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes how much is done, and of how much; a terminal shows a bar."""
    with stages() as told:
        yield functools.partial(told, what)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function like that of `progress`, which is also told what is being done."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeRemainingColumn,
    )

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def told(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield told


def _say(sentence: str, stream: TextIO) -> None:
    """Print a sentence; on a terminal, wrapped at words and with control characters escaped."""
    shown = visible(sentence)
    if stream.isatty():
        shown = textwrap.fill(
            shown,
            _width(),
            replace_whitespace=False,
            drop_whitespace=True,
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(shown, file=stream)


def _width() -> int:
    return shutil.get_terminal_size().columns


def _print_json(record: Record) -> None:
    """Print a JSON line; characters that cannot be printed are escaped."""
    line = json.dumps(record, ensure_ascii=False, default=_text)
    print(line if line.isprintable() else json.dumps(record, default=_text))


def _print_fields(record: Record) -> None:
    width = max(map(len, record))
    for field, value in record.items():
        text(f"{_heading(field):<{width}}  {_text(value)}")


def _print_table(rows: list[Record], least: Sequence[str]) -> None:
    if not rows:
        print("There are none.")
        return
    left_out: list[str] = []
    while (widths := _widths(rows, left_out)) is None and len(left_out) < len(least):
        left_out.append(least[len(left_out)])
    if widths is None:
        _print_lines(rows)
        return
    _print_columns(rows, widths)
    if left_out:
        names = ", ".join(map(_heading, left_out))
        _say(f"Left out here: {names}. A wider terminal shows it, and --json.", sys.stdout)


def _widths(rows: list[Record], left_out: Sequence[str]) -> dict[str, int] | None:
    """Return the columns of a table with their widths, or None if they do not fit.

    Texts may be folded. The columns of texts share the rest of the line, from the first one on.
    """
    from rich.cells import cell_len  # noqa: PLC0415 - only people need it

    wanted: dict[str, int] = {}
    widths: dict[str, int] = {}
    for field in rows[0]:
        if field in left_out:
            continue
        cells = [cell_len(visible(_text(row[field]))) for row in rows]
        wanted[field] = max(len(field), *cells)
        folds = any(isinstance(row[field], str | list) and not _is_time(row[field]) for row in rows)
        least = max(_TEXT_WIDTH_MIN, len(field)) if folds else wanted[field]
        widths[field] = min(wanted[field], least)
    room = _width() - sum(widths.values()) - _GAP * (len(widths) - 1)
    if room < 0:
        return None
    for field, width in widths.items():
        widths[field] = min(wanted[field], width + room)
        room -= widths[field] - width
    return widths


def _print_columns(rows: list[Record], widths: Mapping[str, int]) -> None:
    from rich import box  # noqa: PLC0415 - slow to load, and only people need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for field, width in widths.items():
        justify: Literal["left", "right"] = "right" if isinstance(rows[0][field], int) else "left"
        table.add_column(_heading(field), justify=justify, width=width)
    for row in rows:
        cells = [Text(visible(_text(row[field])), overflow="fold") for field in widths]
        table.add_row(*cells)
    # Without a height, rich assumes 80 columns for a dumb terminal.
    Console(width=_width(), height=25).print(table)


def _print_lines(rows: list[Record]) -> None:
    """Print each record as lines, with an empty line between two records."""
    for place, row in enumerate(rows):
        if place:
            print()
        _print_fields(row)


def _heading(field: str) -> str:
    return field.replace("_", " ")


def _is_time(value: object) -> bool:
    """Return whether a text is a time of the audit record, which must not be folded."""
    return isinstance(value, str) and value[:2].isdecimal() and value[10:11] == "T"


def _text(value: object) -> str:
    """Return a value as a person reads it; JSON has times in the same form."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "-" if value is None else str(value)
