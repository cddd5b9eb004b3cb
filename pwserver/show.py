"""What the commands print: sentences and tables for people, JSON lines for programs.

Nothing here asks the service. A password is only part of what is given to these functions where it
is to be seen. What comes from the service is never trusted to be harmless on a terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

Record = Mapping[str, Any]

HIDDEN = "(hidden; --show)"


def on_terminal() -> bool:
    """Tell whether a person looks at standard output."""
    return sys.stdout.isatty()


def visible(text: str) -> str:
    """Return a text as a terminal may have it: control characters and the like by their numbers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


def text(text: str) -> None:
    """Print a text: as it is for a program, with nothing in it that a terminal would act on."""
    print(visible(text) if on_terminal() else text)


def done(sentence: str, record: Record, *, as_json: bool) -> None:
    """Print what was done: a sentence for people, a record for programs."""
    if as_json or not on_terminal():
        _print_json(record)
    else:
        text(sentence)


def record(record: Record, *, as_json: bool) -> None:
    """Print one record: a line for each field on a terminal, else a JSON line."""
    if as_json or not on_terminal():
        _print_json(record)
        return
    width = max(map(len, record))
    for field, value in record.items():
        text(f"{_heading(field):<{width}}  {_text(value)}")


def records(records: Iterable[Record], *, as_json: bool) -> None:
    """Print records, all with the same fields: a table on a terminal, else a JSON line for each."""
    if as_json or not on_terminal():
        for record in records:
            _print_json(record)
    else:
        _print_table(list(records))


def tell(sentence: str) -> None:
    """Say to a person what no program wants to have."""
    print(visible(sentence), file=sys.stderr)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give what is told how much is done, and of how much: a bar on standard error for people."""
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
        task = bar.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield told


def _print_json(record: Record) -> None:
    """Print a JSON line; a character that cannot be printed stands in it by its number."""
    line = json.dumps(record, ensure_ascii=False, default=_text)
    print(line if line.isprintable() else json.dumps(record, default=_text))


def _print_table(rows: list[Record]) -> None:
    from rich import box  # noqa: PLC0415 - slow to load, and only people need it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not rows:
        print("There are none.")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for field, value in rows[0].items():
        table.add_column(_heading(field), justify="right" if isinstance(value, int) else "left")
    for row in rows:
        table.add_row(*[Text(visible(_text(value)), overflow="fold") for value in row.values()])
    Console().print(table)


def _heading(field: str) -> str:
    return field.replace("_", " ")


def _text(value: object) -> str:
    """Return what a person reads for a value; a time stands so in JSON, too."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "-" if value is None else str(value)
