"""Walks through a table in the order of its ids, some rows at a time, and never backwards.

In a damaged database one page of a table may be a copy of another. A query for the rows after the
last id may then return earlier rows, and a simple loop would never end. This walk yields each row
once, and reports a row that is out of order to the caller. It ends on every database, because
SQLite follows no path of pages that is deeper than a table can be.
"""

from collections.abc import Callable, Iterator
from typing import Any

import apsw

from pwserver.errors import DatabaseRefused

FIRST_ID = -(2**63)
"""The least id possible, so that a walk also finds ids that were tampered with."""

Misplaced = Callable[[tuple[Any, ...], int], None]
"""Called with a row that is out of order, and with the id before it."""


def refuse(row: tuple[Any, ...], last: int) -> None:
    """Raise `DatabaseRefused`: for callers that must not change rows of a damaged database."""
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
    """Yield the rows of a statement, at most `at_a_time` together.

    The statement selects the id first and orders by it; its first parameter is the id that the rows
    come after. Between two yields no statement is open in the database. After a row that is out of
    order, one statement reads the rest, because a new one would return the same rows again.
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
