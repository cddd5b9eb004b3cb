"""Shows what a run kept on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from report import PIPED_COLUMNS
from rich.console import Console
from rich.table import Table
from sheets import Chapter, Sheet


def show(chapters: Iterable[Chapter]) -> None:
    """Print chapters, each with its tables."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPED_COLUMNS
    for chapter in chapters:
        console.rule(chapter.title, align="left")
        console.print(chapter.says, soft_wrap=True)
        for sheet in chapter.sheets:
            if sheet.rows:
                console.print(_table(sheet))


def _table(sheet: Sheet) -> Table:
    """Return a table of rich's; on a narrow terminal figures fold rather than lose digits."""
    table = Table(title=sheet.title, title_justify="left")
    for place, heading in enumerate(sheet.headings):
        justify = "left" if place < sheet.words else "right"
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in sheet.rows:
        table.add_row(*row)
    return table
