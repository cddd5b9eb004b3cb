"""Going through a table in the order of its ids, some rows at a time, and never backwards.

In a damaged database a page of the table may stand in the place of another one. Who then asks for
the rows after the last id is given earlier ones, and would go round for ever. Here each row comes
once, and a row that does not come after the one before it is told to the caller. A walk ends on
every database: SQLite follows no path of pages that is deeper than a table can be.
"""

from collections.abc import Callable, Iterator
from typing import Any

import apsw

from pwserver.errors import DatabaseRefused

FIRST_ID = -(2**63)
"""Where to begin so that an id that was tampered with is found, too."""

Misplaced = Callable[[tuple[Any, ...], int], None]
"""Is given a row that is out of order, and the id that it came after."""


def refuse(row: tuple[Any, ...], last: int) -> None:
    """Raise `DatabaseRefused`: for who changes rows, and must not do so in a damaged database."""
    raise DatabaseRefused(
        f"the database is damaged: row {row[0]} stands after row {last}. Run `pwserver check`, "
        "which says what can still be read, and restore it from a backup."
    )


def in_order(  # noqa: PLR0913  (a statement, where it begins, and what to do with its rows)
    connection: apsw.Connection,
    select: str,
    parameters: tuple[int, ...] = (),
    *,
    at_a_time: int,
    after: int = FIRST_ID,
    misplaced: Misplaced = refuse,
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a statement, at most so many at a time.

    The statement selects the id first and orders by it; its first parameter is the id that the rows
    come after. Between two yields nothing is held open in the database, unless a row was out of
    order: then the rest is read in one go, because to ask again would find the same rows.
    """
    last, damaged = after, False
    while True:
        page = []
        rows = connection.execute(select, (last, *parameters))
        for row in rows:
            if row[0] <= last:
                damaged = True
                misplaced(row, last)
                continue
            last = row[0]
            page.append(row)
            if len(page) == at_a_time:
                if not damaged:
                    break
                yield page
                page = []
        rows.close()
        if page:
            yield page
        if damaged or len(page) < at_a_time:
            return
