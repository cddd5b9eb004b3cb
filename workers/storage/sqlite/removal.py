"""Deletes the books of removed applications; nothing more is saved into them.

The administrator's command only marks an application as removed (its `may` is `REMOVED`). The
process that writes to the database deletes the users of its book, some with each transaction. So
the number of users stays exact, no save waits for another process's lock, and an interrupted
removal continues at the next start.

The row of the application stays as a tombstone, so that no other application gets its number:
users restored from an old copy of the database must not become another application's.
"""

import apsw
from peewee import SQL

from workers.book.models import COMMON_BOOK, Application, Request, User, sql
from workers.storage.operations import REMOVED

_USERS_AT_A_TIME = SQL("64")
"""Users deleted in one transaction: about 0.5 ms, for which the saves in it wait."""


class RemovedBooks:
    """The removed books and the users left in them, seen through the writing connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.books: set[int] = set()
        self._not_empty: set[int] = set()  # may still have users
        self._build_statements()

    @property
    def pending(self) -> bool:
        """Whether there may be users to delete."""
        return bool(self._not_empty)

    def look(self) -> None:
        """Read which books have been removed; raise `apsw.Error`."""
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
        parts = (  # each uses one of the table's two indexes
            this_book & User.username.is_null(False),
            this_book & User.username.is_null() & (User.book != SQL(str(COMMON_BOOK))),
        )
        users = [User.select(User.id).where(part).limit(_USERS_AT_A_TIME) for part in parts]
        self._delete_users = [sql(User.delete().where(User.id.in_(some))) for some in users]
        requests = Request.select(Request.id).where(Request.book == 0).limit(_USERS_AT_A_TIME)
        self._delete_requests = sql(Request.delete().where(Request.id.in_(requests)))
