"""The books of applications that were removed: nothing more is saved into them, and they go.

A command of the administrator only marks an application as removed (its `may` is `REMOVED`). The
users of its book are deleted by who writes to the database, some with each transaction: so the
number of users stays exact, no save waits for another process's lock, and what was interrupted goes
on at the next start.

The row of the application stays as a tombstone, so that nobody gets its number: what is put back
from an old copy of the database is to belong to nobody.
"""

import apsw
from peewee import SQL

from workers.book.models import COMMON_BOOK, Application, Request, User, sql

REMOVED = "removed"
"""The `may` of an application that was removed: no right has this name."""

_USERS_AT_A_TIME = SQL("64")
"""In one transaction: about 0.5 ms, for which the saves in it wait."""


class RemovedBooks:
    """Which books were removed, and what is left in them, on the connection that writes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.books: set[int] = set()
        self._not_empty: set[int] = set()  # as far as is known
        self._build_statements()

    @property
    def pending(self) -> bool:
        """Whether there may be users to delete."""
        return bool(self._not_empty)

    def look(self) -> None:
        """Take note of what has been removed; raise `apsw.Error`."""
        books = {book for (book,) in self._connection.execute(self._list, (REMOVED,))}
        self._not_empty |= books - self.books
        self.books = books

    def delete_some(self) -> int:
        """Delete some users of removed books, within a transaction; return how many."""
        for book in list(self._not_empty):
            users = sum([self._deleted(each, book) for each in self._delete_users])
            if users + self._deleted(self._delete_requests, book):
                return users
            self._not_empty.discard(book)
        return 0

    def _deleted(self, statement: str, book: int) -> int:
        self._connection.execute(statement, (book,))
        return self._connection.changes()

    def _build_statements(self) -> None:
        removed = (Application.may == "") & (Application.book != SQL(str(COMMON_BOOK)))
        self._list = sql(Application.select(Application.id).where(removed))
        this_book = User.book == 0
        parts = (  # by the two indexes that there are
            this_book & User.username.is_null(False),
            this_book & User.username.is_null() & (User.book != SQL(str(COMMON_BOOK))),
        )
        users = [User.select(User.id).where(part).limit(_USERS_AT_A_TIME) for part in parts]
        self._delete_users = [sql(User.delete().where(User.id.in_(some))) for some in users]
        requests = Request.select(Request.id).where(Request.book == 0).limit(_USERS_AT_A_TIME)
        self._delete_requests = sql(Request.delete().where(Request.id.in_(requests)))
