"""Databases that are not ours to use: refused with the reason, and not a byte of them changed.

By all who open one: the writer, the check before the start, and the administrator's commands.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pwserver.errors import DatabaseRefused, KeyRefused, StoreError
from tests.support.books import (
    BOTH_KEYS,
    KEY,
    KEYRING,
    NEXT_KEY,
    OTHER_KEY,
    contents,
    crash,
    keyring_of,
    make_book,
    open_store,
    rows_of,
    users,
)
from workers.book.keyring import Keyring, MasterKey
from workers.book.models import SCHEMA_VERSION, Key
from workers.storage.sqlite.database import Store, check_database, open_to_administer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "book" / "user_data.db"


@pytest.fixture(autouse=True)
def folder(path: Path) -> Path:
    """Return the folder of the database, which has nothing else in it."""
    path.parent.mkdir()
    return path.parent


def administer(path: Path, keyring: Keyring = KEYRING) -> None:
    """Open a database as the administrator's commands do."""
    with open_to_administer(path, keyring):
        pass


OPENINGS = (open_store, check_database, administer)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, 2**31 - 1])
def test_an_unknown_schema_version_is_refused(path: Path, folder: Path, version: int) -> None:
    """A database of another schema version is refused by its number, and not a byte is changed."""
    make_book(path, users(1), version)
    before = contents(folder)
    for opening in OPENINGS:
        with pytest.raises(DatabaseRefused, match=f"schema version {version}; .* not touched"):
            opening(path, KEYRING)
        assert contents(folder) == before


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_schema_of_development_can_be_carried_over(
    path: Path, folder: Path, version: int
) -> None:
    """Whoever opens a database that no release made is told what to do, and changes nothing."""
    make_book(path, users(1), version)
    before = contents(folder)
    for opening in OPENINGS:
        with pytest.raises(DatabaseRefused, match=r"under development\. .* `pwserver setup`"):
            opening(path, KEYRING)
        assert contents(folder) == before


def foreign_with_tables(path: Path) -> None:
    """Make a database as another program would."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE song (title TEXT)")
    connection.close()


def foreign_in_wal_mode(path: Path) -> None:
    """Make a database of another program that uses a write-ahead log as well."""
    foreign_with_tables(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=wal")
    connection.close()


def foreign_without_tables(path: Path) -> None:
    """Make a database that another program has only put its mark on so far."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 77")
    connection.close()
    assert path.stat().st_size > 0


def text_file(path: Path) -> None:
    """Make a file that is no database, and long enough to have all that SQLite looks at."""
    path.write_text("Not a database.\n" * 1000)


def short_text_file(path: Path) -> None:
    """Make a file that is no database and shorter than a database's header."""
    path.write_text("Note.\n")


@pytest.mark.parametrize(
    ("make_other", "reason"),
    [
        (foreign_with_tables, "is a database of another program"),
        (foreign_in_wal_mode, "is a database of another program"),
        (foreign_without_tables, "is a database of another program"),
        (text_file, "file is not a database"),
        (short_text_file, "file is not a database"),
    ],
)
def test_other_files_are_refused(
    path: Path, folder: Path, make_other: Callable[[Path], None], reason: str
) -> None:
    """What is no password book is refused, each time with the reason, and not a byte is changed."""
    make_other(path)
    before = contents(folder)
    for _ in range(2):
        for opening in OPENINGS:
            with pytest.raises(DatabaseRefused, match=reason):
                opening(path, KEYRING)
            assert contents(folder) == before


def test_a_wrong_key_is_refused(path: Path, folder: Path) -> None:
    """A key that did not seal the book is refused, nothing is changed, and the right one fits."""
    make_book(path, users(1))
    before = contents(folder)
    wrong_keyrings = [
        *map(keyring_of, (OTHER_KEY, MasterKey(2, KEY.secret))),
        keyring_of(OTHER_KEY, NEXT_KEY),
    ]
    for wrong in wrong_keyrings:
        for opening in OPENINGS:
            with pytest.raises(KeyRefused, match=r"the key is not the one that|needs key 1,"):
                opening(path, wrong)
            assert contents(folder) == before
    open_store(path).close()


def test_one_key_of_several_that_is_missing_is_found_out(path: Path, folder: Path) -> None:
    """A book that two keys have sealed needs both of them, though it could be opened with one."""
    make_book(path, users(1))
    store = open_store(path)
    Key.create(id=NEXT_KEY.id, check_value=NEXT_KEY.check_value)
    store.close()
    before = contents(folder)
    third = MasterKey(3, NEXT_KEY.secret)
    lacking = [(KEYRING, 2), (keyring_of(KEY, third), 2), (keyring_of(NEXT_KEY, third), 1)]
    for keyring, number in lacking:
        for opening in OPENINGS:
            with pytest.raises(KeyRefused, match=f"needs key {number}, which the key file lacks"):
                opening(path, keyring)
            assert contents(folder) == before
    exchanged = keyring_of(KEY, MasterKey(NEXT_KEY.id, OTHER_KEY.secret))
    for opening in OPENINGS:
        with pytest.raises(KeyRefused, match="the key is not the one that"):
            opening(path, exchanged)
        assert contents(folder) == before
    for opening in OPENINGS:
        opened = opening(path, BOTH_KEYS)
        if isinstance(opened, Store):
            opened.close()


@pytest.mark.parametrize("why", ["wrong key", "another schema version", "another program"])
def test_a_refused_database_keeps_its_log(path: Path, folder: Path, why: str) -> None:
    """A database whose last user was killed is left as it is when it is refused: log and all."""
    if why == "another program":
        foreign_with_tables(path)
        crash(path, "INSERT INTO song VALUES ('la')")
    else:
        make_book(path, users(1), 99 if why == "another schema version" else SCHEMA_VERSION)
        crash(path, "UPDATE user SET saved_at_ms = 5")
    before = contents(folder)
    assert len(before[f"{path.name}-wal"]) > 0
    for opening in OPENINGS:
        with pytest.raises(StoreError):
            opening(path, keyring_of(OTHER_KEY))
        assert contents(folder) == before


def test_a_second_service_is_refused(path: Path) -> None:
    """While a database is open no other may write to it; the first goes on, and then it is free."""
    first = open_store(path)
    files_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DatabaseRefused, match="in use by another pwserver"):
        open_store(path)
    assert len(os.listdir("/proc/self/fd")) == files_open
    first.commit(users(1), [])
    assert len(rows_of(first, "user")) == 1
    first.close()
    open_store(path).close()


def test_what_cannot_be_opened_is_refused(path: Path) -> None:
    """A directory, or a folder that is not there, is refused with the reason."""
    with pytest.raises(DatabaseRefused, match="is a directory, and not a file"):
        open_store(path.parent)
    with pytest.raises(DatabaseRefused, match="No such file or directory"):
        open_store(path.parent / "missing" / "user_data.db")
