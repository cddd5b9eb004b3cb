"""How benchmarks print on the terminal: figures stay whole at any width, prose wraps at words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from benchmarks.results.sheets import Chapter, Sheet

PIPED_COLUMNS = 150
"""Wide enough for every column when there is no terminal to ask."""
UNLIMITED_COLUMNS = 10_000
_GLUE = "\N{NO-BREAK SPACE}"


def terminal() -> Console:
    """Return standard output, as wide as the terminal is."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_COLUMNS
    return console


def show(chapters: Iterable[Chapter]) -> None:
    """Print chapters, each with its tables."""
    console = terminal()
    for chapter in chapters:
        console.rule(chapter.title, align="left")
        console.print(chapter.says)
        for sheet in chapter.sheets:
            if sheet.rows:
                print_sheet(sheet, console)


def print_sheet(sheet: Sheet, console: Console | None = None) -> None:
    """Print a table; where it is too wide for that, each row as a few lines of its own."""
    console = console or terminal()
    table = _table(sheet)
    any_width = console.options.update(max_width=UNLIMITED_COLUMNS)
    if console.measure(table, options=any_width).minimum <= console.width:
        console.print(table)
    else:
        for line in _lines(sheet, console.width):
            console.print(line, soft_wrap=True)


def _table(sheet: Sheet) -> Table:
    """Return a table whose columns of figures are never narrower than their figures."""
    table = Table(title=sheet.title, title_justify="left")
    for place, column in enumerate(zip(sheet.headings, *sheet.rows, strict=True)):
        if place < sheet.words:
            table.add_column(column[0], overflow="fold")
        else:
            wide = max(cell_len(line) for cell in column for line in cell.split("\n"))
            table.add_column(column[0], justify="right", min_width=wide)
    for row in sheet.rows:
        table.add_row(*row)
    return table


def _lines(sheet: Sheet, width: int) -> list[str]:
    """Return the rows one after the other, with its heading before each figure."""
    headings = [each.replace("-\n", "").replace("\n", " ") for each in sheet.headings]
    lines = textwrap.wrap(sheet.title, width)
    for row in sheet.rows:
        cells = [f"{heading} {cell}" for heading, cell in zip(headings, row, strict=True)]
        lines += textwrap.wrap(", ".join(row[: sheet.words]), width)
        indent = "  " if sheet.words else "- "
        fits = width - len(indent) - 1  # with its comma; what does not is broken before its figure
        figures = ", ".join(
            cell.replace(" ", _GLUE) if len(cell) <= fits else cell for cell in cells[sheet.words :]
        )
        wrapped = textwrap.wrap(
            figures,
            width,
            initial_indent=indent,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line.replace(_GLUE, " ") for line in wrapped]
    return lines
