"""What `pwserver move` asks of a store: its rows as they are stored, and a mark on its database.

Rows are sealed and stay so; nothing here knows of keys. A row is a tuple of the columns of its
`Table`, the id first. It is the same for every store: `request_id` is bytes, `seals` a bool.

A mark says of a database that it is not the book, and where that is. Whoever opens a marked
database for anything else refuses it with the sentence of its mark.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from peewee import Model

from pwserver.errors import AdministrationRefused, DatabaseRefused
from workers.book.models import Application, Key, Request, User, time_saved

StoredRow = tuple[Any, ...]

HALF = "half"
"""Rows of `place` are being copied to this database, or a copy was interrupted."""

WHOLE = "whole"
"""All of `place` is here and was verified; the other database gets its mark now."""

MOVED = "moved"
"""This database was moved to `place`."""

MARK_TABLE = "move"
MAKE_MARK = "CREATE TABLE move (state text NOT NULL, place text NOT NULL, at_ms bigint NOT NULL)"
READ_MARK = "SELECT state, place, at_ms FROM move"
DROP_MARK = "DROP TABLE move"


class Table(NamedTuple):
    """A table that is moved, and its columns, which have the same names in every store."""

    name: str
    columns: tuple[str, ...]


def _table(model: type[Model]) -> Table:
    about = model._meta
    return Table(about.table_name, tuple(field.column_name for field in about.sorted_fields))


TABLES = tuple(map(_table, (Key, Application, User, Request)))


class Mark(NamedTuple):
    """What the mark of a database says: `HALF`, `WHOLE` or `MOVED`, and the other database."""

    state: str
    place: str
    at_ms: int

    def sentence(self, name: str) -> str:
        """Return why the database `name` is not to be used."""
        when = time_saved(self.at_ms)
        if self.state == MOVED:
            return (
                f"{name} was moved to {self.place} at {when}: use that. `pwserver move --unmark` "
                "lets this one be used again, without what was saved there since."
            )
        return (
            f"{name} is not whole: a move from {self.place} began at {when} and has not ended. Run "
            "`pwserver move` again to go on; or, to give it up, delete this database."
        )


class Source(Protocol):
    """A book that is moved away. Nobody else can use it until it is closed."""

    mark: Mark | None
    """`MOVED`, if this is done already."""

    def count(self, table: Table) -> int:
        """Return the number of rows."""

    def rows(self, table: Table) -> Generator[StoredRow, None, None]:
        """Yield all rows in the order of their ids."""

    def mark_moved(self, place: str) -> None:
        """Mark it as moved, if it is not. When this returns, that is durable."""


class Destination(Protocol):
    """A database that is being filled. It has a mark from the beginning."""

    mark: Mark

    def rows(self, table: Table) -> Generator[StoredRow, None, None]:
        """Yield all rows in the order of their ids. Close the iterator before a change."""

    def cut(self, table: Table, last: int | None) -> None:
        """Delete the rows after an id; None: all."""

    def put(self, table: Table, rows: Sequence[StoredRow]) -> None:
        """Add rows in one transaction."""

    def complete(self) -> None:
        """Make what a book has besides its rows: indexes, numbers. It may be done again."""

    def mark_whole(self) -> None:
        """Make all of it durable, and the mark `WHOLE`."""

    def unmark(self) -> None:
        """Take the mark away: this is the book now."""


class Movable(Protocol):
    """A database, by its place. What is opened raises a `PwserverError` that says what to do."""

    place: str
    """What sentences and marks call it; it has no password in it."""

    def source(self) -> AbstractContextManager[Source]:
        """Open a book to move it away."""

    def destination(self, place: str, *, make: bool) -> AbstractContextManager[Destination]:
        """Open a database that a move from `place` began to fill; or `make` one, where none is."""

    def unmark(self) -> None:
        """Let a database that was moved be used again."""


def check_is_being_filled(mark: Mark | None, name: str, place: str) -> Mark:
    """Return the mark of a database that is not empty; raise `DatabaseRefused`.

    Only a move from `place` that began there may go on.
    """
    if mark is None:
        raise DatabaseRefused(
            f"{name} has a book in it already. It was not changed; name an empty database, or one "
            "that is not there yet."
        )
    if mark.state == MOVED or mark.place != place:
        raise DatabaseRefused(f"{mark.sentence(name)} It was not changed.")
    return mark


def nothing_there(name: str) -> DatabaseRefused:
    """Return the refusal of a database that should be there already, because a move began."""
    return DatabaseRefused(f"{name} is empty; what was moved there is gone.")


def check_may_be_unmarked(mark: Mark | None, name: str) -> None:
    """Raise an error if a database was not moved."""
    if mark is None:
        raise AdministrationRefused(f"{name} is not marked as moved. Nothing was changed.")
    if mark.state != MOVED:
        raise AdministrationRefused(f"{mark.sentence(name)} Nothing was changed.")
