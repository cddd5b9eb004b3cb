"""Applies the workers' changes to rows, in a transaction that `database.Store` begins and ends.

A save that arrives after its application's book was removed is answered as done, as if it had
arrived just before the removal and been deleted with the book.

A row or operation sealed with a retired key is refused (`KeyRetired`), because nobody could ever
read it.

The SQL is built from the models once: peewee takes longer to build it than SQLite takes to run it.
"""

import itertools
from collections.abc import Callable

import apsw
from peewee import SQL, fn

from workers.book.models import COMMON_BOOK, Key, Request, Row, User, sql
from workers.storage.operations import (
    DELETE,
    DONE,
    FULL,
    LABEL,
    NONCE_SPAN,
    SAVE,
    STALE,
    KeyRetired,
    Operation,
    Result,
)
from workers.storage.sqlite.removal import RemovedBooks

_INSERTED_TOGETHER = (64, 16, 4, 2, 1)
"""Rows of one INSERT. A row takes 0.37 microseconds with 64 rows in a statement, and 0.7 with a
statement for each row (`executemany`)."""

_NO_KEY = {None}
_REQUESTS_FORGOTTEN_MIN = 64
_USER_SECRET = (User.key_id, User.sealed, User.saved_at_ms)


class RowWriter:
    """Applies rows and operations on one connection. Knows nothing of commits.

    It remembers a `request_id` for `requests_kept_ms`.
    """

    def __init__(self, connection: apsw.Connection, requests_kept_ms: int) -> None:
        self._connection = connection
        self._requests_kept_ms = requests_kept_ms
        self._do: dict[int, Callable[[Operation], Result]] = {
            SAVE: self._save,
            LABEL: self._label,
            DELETE: self._delete,
        }
        self._requests = 0  # requests remembered in this transaction
        self._now_ms = 0  # the time of the newest of them
        self._keys: set[int | None] = set()  # ids of the keys in the book
        self._keys_version = -1  # the database's data version when they were read
        self._users: dict[int, int] = {}  # of the books that may not have any number of them
        self.removed = RemovedBooks(connection)
        self.users_more = 0  # how many users this transaction adds; negative: it deletes
        self._build_statements()

    def apply(self, rows: list[Row], operations: list[Operation]) -> list[Result]:
        """Apply all rows and operations; return the operations' results.

        Raises `apsw.Error` or `KeyRetired`.
        """
        self._check_keys(
            {row[2] for row in rows} | {operation[1] for operation in operations} - _NO_KEY
        )
        if self.removed.books:
            rows = [row for row in rows if row[1] not in self.removed.books]
        self.users_more = len(rows)
        if rows:
            self._insert_rows(rows)
            if self._users:
                self._count_rows(rows)
        results = self._do_all(operations) if operations else []
        if self.removed.pending:
            self.users_more -= self.removed.delete_some()
        return results

    def undone(self) -> None:
        """Forget what was counted, because the transaction was not committed."""
        self._users.clear()

    def _do_all(self, operations: list[Operation]) -> list[Result]:
        self._requests = 0
        results = [self._do[operation[0]](operation) for operation in operations]
        if self._requests:
            self._forget_requests()
        return results

    def _check_keys(self, key_ids: set[int | None]) -> None:
        """Raise `KeyRetired` if a key is not in the book.

        Reads the keys and the removed books again only if the data version has changed: only other
        connections change them, and each of their commits, but none of ours, changes that version
        (https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html).
        """
        version = self._connection.data_version()
        if version != self._keys_version:
            self._keys = {key_id for (key_id,) in self._connection.execute(self._list_keys)}
            self.removed.look()
            self._keys_version = version
        if not key_ids <= self._keys:
            raise KeyRetired

    def _insert_rows(self, rows: list[Row]) -> None:
        """Insert users without a name in the order of their ids, at the end of the table."""
        rows.sort()
        at, execute, flatten = 0, self._connection.execute, itertools.chain.from_iterable
        for together, insert in self._inserts:
            while len(rows) - at >= together:
                execute(insert, tuple(flatten(rows[at : at + together])))
                at += together

    # --- The operations. ---

    def _save(self, operation: Operation) -> Result:
        """Insert a new user, or replace a user's newest version if `replaced` is given."""
        _, key_id, book, username, user_id, replaced, version, *values = operation
        sealed, saved_at_ms, labels, older, request_id, fingerprint, users_max = values
        if book in self.removed.books:
            return DONE
        execute = self._connection.execute
        if request_id is not None:
            earlier = self._earlier(book, request_id, saved_at_ms)
            if earlier is not None:
                return earlier
        if replaced is None and users_max and self._users_in(book) >= users_max:
            named = username is not None and execute(self._find_name, (book, username)).fetchone()
            return STALE if named else FULL
        if replaced is None:
            user = (user_id, key_id, sealed, saved_at_ms, book, username, labels)
            execute(self._insert_user, user)
        else:
            columns = (key_id, sealed, saved_at_ms, version, labels, older)
            execute(self._replace, (*columns, user_id, replaced))
        if not self._connection.changes():
            return STALE
        if replaced is None:
            self.users_more += 1
            if book in self._users:
                self._users[book] += 1
        if request_id is not None:
            self._requests += 1
            self._now_ms = saved_at_ms
            made = (user_id, version, saved_at_ms)
            execute(self._remember, (book, request_id, fingerprint, *made))
        return DONE

    def _label(self, operation: Operation) -> Result:
        _, key_id, user_id, replaced, sealed, labels, older = operation
        columns = (key_id, sealed, labels, older)
        self._connection.execute(self._set_labels, (*columns, user_id, replaced))
        return DONE if self._connection.changes() else STALE

    def _delete(self, operation: Operation) -> Result:
        _, _, user_id = operation
        execute = self._connection.execute
        found = execute(self._find_book, (user_id,)).fetchone() if self._users else None
        execute(self._delete_user, (user_id,))
        if not self._connection.changes():
            return STALE
        self.users_more -= 1
        if found is not None and found[0] in self._users:
            self._users[found[0]] -= 1
        return DONE

    # --- The number of users in the books that may not have any number of them. ---

    def _users_in(self, book: int) -> int:
        """Return the number of users in a book.

        It is counted once, and kept from then on: no other process adds or deletes users.
        """
        users = self._users.get(book)
        if users is None:
            if book == COMMON_BOOK:  # no index has its users, so those of others are subtracted
                users = self._count(self._count_all) - sum(map(self._count, self._count_others))
            else:
                users = sum(self._count(each, book) for each in self._count_users)
            self._users[book] = users
        return users

    def _count(self, statement: str, *parameters: int) -> int:
        return int(next(iter(self._connection.execute(statement, parameters)))[0])

    def _count_rows(self, rows: list[Row]) -> None:
        for row in rows:
            if row[1] in self._users:
                self._users[row[1]] += 1

    # --- Remembered requests. ---

    def _earlier(self, book: int, request_id: str, now_ms: int) -> tuple[int, int, int] | None:
        found = self._connection.execute(self._find_request, (book, request_id)).fetchone()
        if found is None:
            return None
        number, user_id, version, fingerprint, saved_at_ms = found
        altered = not isinstance(saved_at_ms, int)  # by somebody who can write to the database
        if altered or saved_at_ms < now_ms - self._requests_kept_ms:
            self._connection.execute(self._forget_request, (number,))
            return None
        return user_id, version, fingerprint

    def _forget_requests(self) -> None:
        """Delete the oldest requests that are too old: up to 64, or twice the number just added.
        Requests from a clock that was ahead are deleted too. Otherwise they would stay and keep all
        requests after them.
        """
        number = max(_REQUESTS_FORGOTTEN_MIN, 2 * self._requests)
        too_old_ms = self._now_ms - self._requests_kept_ms
        ahead_ms = self._now_ms + self._requests_kept_ms
        self._connection.execute(self._forget_oldest, (too_old_ms, ahead_ms, number))

    # --- The SQL. ---

    def _build_statements(self) -> None:
        same_user = User.id == 0
        as_it_was = same_user & (fn.SUBSTR(User.sealed, *NONCE_SPAN) == b"")
        self._list_keys = sql(Key.select(Key.id))
        plain = [User.id, User.book, *_USER_SECRET]
        self._inserts = [
            (together, sql(User.insert_many([(0, 0, 0, b"", 0)] * together, fields=plain)))
            for together in _INSERTED_TOGETHER
        ]
        self._insert_user = sql(
            User.insert_many(
                [(0, 0, b"", 0, 0, "", "")],
                fields=[User.id, *_USER_SECRET, User.book, User.username, User.labels],
            ).on_conflict_ignore()
        )
        self._replace = sql(
            User.update(
                {  # in the order of the columns, which is that of the parameters
                    User.key_id: 0,
                    User.sealed: b"",
                    User.saved_at_ms: 0,
                    User.version: 0,
                    User.labels: "",
                    User.older: b"",
                }
            ).where(as_it_was)
        )
        self._delete_user = sql(User.delete().where(same_user))
        self._find_book = sql(User.select(User.book).where(same_user))
        this_book = User.book == 0
        this_name = this_book & (User.username == "")
        self._find_name = sql(User.select(User.id).where(this_name))
        own = this_book & (User.book != SQL("0"))
        parts = (this_book & User.username.is_null(False), own & User.username.is_null())
        self._count_users = [sql(User.select(fn.COUNT()).where(part)) for part in parts]
        others = User.book != SQL("0")
        parts = (others & User.username.is_null(False), others & User.username.is_null())
        self._count_all = sql(User.select(fn.COUNT()))
        self._count_others = [sql(User.select(fn.COUNT()).where(part)) for part in parts]
        labels = {User.key_id: 0, User.sealed: b"", User.labels: "", User.older: b""}
        self._set_labels = sql(User.update(labels).where(as_it_was))
        this_request = (Request.book == 0) & (Request.request_id == "")
        found = [  # whatever somebody has put there
            column.cast("INTEGER")
            for column in (
                Request.id,
                Request.user_id,
                Request.version,
                Request.fingerprint,
                Request.saved_at_ms,
            )
        ]
        self._find_request = sql(Request.select(*found).where(this_request))
        self._remember = sql(
            Request.insert_many(
                [(0, "", 0, 0, 0, 0)],
                fields=[
                    Request.book,
                    Request.request_id,
                    Request.fingerprint,
                    Request.user_id,
                    Request.version,
                    Request.saved_at_ms,
                ],
            )
        )
        self._forget_request = sql(Request.delete().where(Request.id == 0))
        oldest = Request.select(Request.id).order_by(Request.id).limit(1)
        self._forget_oldest = sql(
            Request.delete().where(
                ((Request.saved_at_ms < 0) | (Request.saved_at_ms > 0)) & Request.id.in_(oldest)
            )
        )
