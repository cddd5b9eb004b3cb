"""Holds a book against the ledger of what was acknowledged, row by row, with the key.

`inspect` reads a file, with a connection of its own that changes nothing: beside the service, or
while it is dead, when SQLite finds its way through the write-ahead log exactly as it would for the
service. `look` reads any `Book`. Nothing may be under way meanwhile, so that afterwards nothing in
the ledger is open any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from pwserver.errors import DatabaseRefused
from tests.support.book_model import User
from tests.trials.book import Book, SqliteBook, opened_user
from tests.trials.torture.ledger import Ledger, save_of
from workers.book import rows
from workers.book.keyring import read_keyring
from workers.book.models import UserRow
from workers.book.vault import Vault

KINDS = ("lost", "half-written", "mismatch")
"""What can be wrong: an acknowledged save is not there; a row that does not open, or a damaged
file; something is there that was not saved so, or the number of users is another."""

_SHOWN_MAX = 5
_READ_WAIT_MS = 10_000


@dataclass
class Findings:
    """What is wrong with a book: how often, and some of it in words; and how many users it has."""

    users: int = 0
    count: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def add(self, kind: str, text: str, times: int = 1) -> None:
        """Note something that is wrong; `text` says no password."""
        self.count[kind] += times
        if len(self.texts) < _SHOWN_MAX:
            self.texts.append(f"{kind}: {text}")


def inspect(
    database: Path, key_file: Path, ledger: Ledger, books: dict[str, str], *, whole: bool = False
) -> Findings:
    """Return what is wrong with a book, and settle the ledger.

    `books` has the application in whose book the users without a name of each source are to be; a
    guest's are in the common one. Only rows that are newer than those of the last look are opened,
    and those with names; or all of them, where the `whole` is to be looked at.
    """
    is_there = database.exists() and database.stat().st_size
    with _opened(str(database) if is_there else ":memory:") as connection:
        return look(SqliteBook(connection), key_file, ledger, books, whole=whole)


def look(
    book: Book, key_file: Path, ledger: Ledger, books: dict[str, str], *, whole: bool = False
) -> Findings:
    """Return what is wrong with an open book, and settle the ledger, as `inspect` does."""
    findings = Findings()
    if whole:
        ledger.unsee()
    _Inspection(book, key_file, ledger, findings).run(books)
    least, most = ledger.sure, ledger.sure + ledger.open
    if not least <= findings.users <= most:
        findings.add("mismatch", f"there are {findings.users} users, and {least} are known")
    return findings


class _Inspection:
    """One look at a book."""

    def __init__(self, book: Book, key_file: Path, ledger: Ledger, findings: Findings) -> None:
        self._book = book
        self._vault = Vault(read_keyring(key_file))
        self._ledger = ledger
        self._findings = findings

    def run(self, books: dict[str, str]) -> None:
        """Look at everything."""
        for problem in self._book.damage():
            self._findings.add("half-written", f"the file is damaged: {problem}")
        self._findings.users = self._book.number_of_users()
        if not self._findings.users:
            _settle(self._ledger, {}, self._findings)
            return
        found = {"": 0, **self._book.books()}
        numbers = {source: found.get(name, -1) for source, name in books.items()}
        for user in self._book.users(named=False, after=self._ledger.horizon):
            self._plain(user, numbers)
        named = {}
        for user in self._book.users(named=True):
            named[user.username or ""] = self._named(user, found)
        _settle(self._ledger, named, self._findings)

    def _plain(self, user: UserRow, books: dict[str, int]) -> None:
        """Look at a user without a name."""
        self._ledger.horizon = user.id
        try:
            save = save_of(rows.open_newest(self._vault, user))
        except DatabaseRefused as error:
            self._findings.add("half-written", str(error))
            return
        source, number = save or ("", -1)
        if source not in self._ledger.numbers or user.book != books[source]:
            self._findings.add("mismatch", f"user {user.id} is nobody's, or in another's book")
        elif problem := self._ledger.numbers[source].found(number):
            self._findings.add("mismatch", f"save {number} of {source} {problem}")

    def _named(self, user: UserRow, books: dict[str, int]) -> User | None:
        """Return what a user with a name has; None where it does not open."""
        name = user.username or ""
        known = self._ledger.names.get(name)
        if known is None or books.get(known.owner) != user.book:
            self._findings.add("mismatch", f"{name} was not to be there, or not in this book")
        try:
            return opened_user(self._vault, user)
        except DatabaseRefused as error:
            self._findings.add("half-written", str(error))
            return None


def _settle(ledger: Ledger, named: dict[str, User | None], findings: Findings) -> None:
    """Compare what was found with the ledger, which from then on knows that."""
    for source, numbers in ledger.numbers.items():
        if lost := numbers.settle():
            findings.add("lost", f"{lost} acknowledged saves of {source} are not there", lost)
    for name, known in list(ledger.names.items()):
        found = named.get(name)
        if name not in named or found is not None:  # else it does not open, which was said
            problem = known.problem(found)
            if problem:
                findings.add(problem[0], f"{name} {problem[1]}")
        if found is None:
            del ledger.names[name]
        else:
            ledger.names[name] = known.settled(found)


@contextmanager
def _opened(database: str) -> Iterator[apsw.Connection]:
    """Open a book to read, leaving its log as it is, for one transaction."""
    connection = apsw.Connection(database, flags=apsw.SQLITE_OPEN_READWRITE)
    with closing(connection):
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(_READ_WAIT_MS)
        connection.execute("PRAGMA query_only = 1")
        connection.execute("BEGIN")
        yield connection
