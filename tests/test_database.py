"""The database: made, opened, refused and written to, without any process around it."""

import os
import shutil
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.errors import DatabaseRefused, KeyRefused, SqliteRefused, StoreError
from tests.books import KEY, OTHER_KEY, Saving, contents, open_store, rows_of, users
from workers.database import Store, check_database, check_sqlite, holds_a_book
from workers.models import SCHEMA_VERSION, Row
from workers.vault import MasterKey
from workers.writing import DELETE, DONE, STALE


def counted(store: Store) -> int:
    """Return how many users are found when they are counted."""
    store.count_users()
    return store.users


def header_field(path: Path, offset: int) -> int:
    """Return a number of a database's header (https://sqlite.org/fileformat.html#1.3)."""
    with open(path, "rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(4), "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "book" / "user_data.db"


@pytest.fixture(autouse=True)
def folder(path: Path) -> Path:
    """Return the folder of the database, which has nothing else in it."""
    path.parent.mkdir()
    return path.parent


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return a new database, open."""
    opened = open_store(path)
    yield opened
    opened.close()


def make(path: Path, rows: list[Row], schema_version: int = SCHEMA_VERSION) -> None:
    """Make a database with some users in it, and close it."""
    store = open_store(path)
    store.commit(rows, [])
    store.close()
    with open(path, "r+b") as file:
        file.seek(60)
        file.write(struct.pack(">I", schema_version))


def crash(path: Path, statement: str) -> None:
    """Run a statement on a database and leave its log behind, as a process that is killed does."""
    crashing = path.with_name("crashing.db")
    shutil.move(path, crashing)
    connection = sqlite3.connect(crashing)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(statement)
    connection.commit()
    for ending in ("", "-wal"):
        shutil.copy(f"{crashing}{ending}", f"{path}{ending}")
    connection.close()
    crashing.unlink()


# --- Made and opened. ---


def test_a_fresh_database_is_for_its_owner_only(path: Path, folder: Path) -> None:
    """Whatever the umask, only the owner may use a new database and the files beside it."""
    before = os.umask(0)
    try:
        store = open_store(path)
        store.commit(users(1), [])
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
        store.close()
    finally:
        os.umask(before)
    names = ("user_data.db", "user_data.db-wal", "user_data.db-shm")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_fresh_database_says_what_it_is(path: Path) -> None:
    """The file's header has the schema version and whose file it is, and the book is empty."""
    store = open_store(path)
    assert (counted(store), store.newest_id()) == (0, 0)
    store.close()
    assert header_field(path, 60) == SCHEMA_VERSION == 2
    assert header_field(path, 68).to_bytes(4, "big") == b"pwSv"


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    """A file of no bytes holds nothing to protect, so it is used."""
    path.touch()
    assert not holds_a_book(path)
    make(path, users(1))
    assert holds_a_book(path)


def test_a_missing_file_holds_no_book(path: Path) -> None:
    """A key file may be made only where no database can need an older one."""
    assert not holds_a_book(path)
    assert not holds_a_book(path / "below a file")


def test_users_are_there_after_reopening(path: Path) -> None:
    """What was saved is there when the database is opened again, and can be added to."""
    make(path, users(1, 2))
    check_database(path, KEY)
    store = open_store(path)
    store.commit(users(3), [])
    assert (counted(store), store.newest_id()) == (3, 3)
    store.close()


def test_users_are_there_after_a_crash(path: Path, folder: Path) -> None:
    """What was committed before the process was killed is there, though no file was closed."""
    store = open_store(path)
    store.commit(users(1, 2), [])
    killed = folder.parent / "killed"
    shutil.copytree(folder, killed)
    store.close()
    reopened = open_store(killed / path.name)
    assert (counted(reopened), reopened.newest_id()) == (2, 2)
    reopened.close()


@pytest.mark.parametrize("name", [":memory:", "file:x.db?mode=memory", "a b%20c?d#e.db", "-x.db"])
def test_no_name_is_more_than_a_file_name(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that SQLite gives a meaning of its own is a file like any other, and stays there."""
    monkeypatch.chdir(folder)
    make(Path(name), users(1))
    assert list(contents(folder)) == [name]
    store = open_store(Path(name))
    assert counted(store) == 1
    store.close()


def test_leftovers_of_a_removed_database_are_not_taken_into_a_fresh_one(path: Path) -> None:
    """Where only the database file was deleted, the old log's users do not come back."""
    make(path, users(1))
    crash(path, "UPDATE user SET saved_at_ms = 5")
    shutil.copy(path, f"{path}-shm")
    path.unlink()
    store = open_store(path)
    assert counted(store) == 0
    store.commit(users(7), [])
    assert [row[0] for row in rows_of(store, "user")] == [7]
    store.close()
    assert os.listdir(path.parent) == [path.name]


# --- Refused, and not changed. ---


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, 2**31 - 1])
def test_an_unknown_schema_version_is_refused(path: Path, folder: Path, version: int) -> None:
    """A database of another schema version is refused by its number, and not a byte is changed."""
    make(path, users(1), version)
    before = contents(folder)
    with pytest.raises(DatabaseRefused, match=f"schema version {version}; .* not touched"):
        open_store(path)
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
        with pytest.raises(DatabaseRefused, match=reason):
            open_store(path)
        assert contents(folder) == before


def test_a_wrong_key_is_refused(path: Path, folder: Path) -> None:
    """A key that did not seal the book is refused, nothing is changed, and the right one fits."""
    make(path, users(1))
    before = contents(folder)
    for wrong in (OTHER_KEY, MasterKey(2, KEY.secret)):
        for opening in (open_store, check_database):
            with pytest.raises(KeyRefused, match="the key is not the one that"):
                opening(path, wrong)
            assert contents(folder) == before
    open_store(path).close()


@pytest.mark.parametrize("why", ["wrong key", "another schema version", "another program"])
def test_a_refused_database_keeps_its_log(path: Path, folder: Path, why: str) -> None:
    """A database whose last user was killed is left as it is when it is refused: log and all."""
    if why == "another program":
        foreign_with_tables(path)
        crash(path, "INSERT INTO song VALUES ('la')")
    else:
        make(path, users(1), 99 if why == "another schema version" else SCHEMA_VERSION)
        crash(path, "UPDATE user SET saved_at_ms = 5")
    before = contents(folder)
    assert len(before[f"{path.name}-wal"]) > 0
    with pytest.raises(StoreError):
        open_store(path, OTHER_KEY)
    assert contents(folder) == before


def test_a_second_service_is_refused(path: Path) -> None:
    """While a database is open no other may write to it; the first goes on, and then it is free."""
    first = open_store(path)
    files_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DatabaseRefused, match="in use by another pwserver"):
        open_store(path)
    assert len(os.listdir("/proc/self/fd")) == files_open
    first.commit(users(1), [])
    assert counted(first) == 1
    first.close()
    open_store(path).close()


def test_what_cannot_be_opened_is_refused(path: Path) -> None:
    """A directory, or a folder that is not there, is refused with the reason."""
    with pytest.raises(DatabaseRefused, match="Is a directory"):
        open_store(path.parent)
    with pytest.raises(DatabaseRefused, match="No such file or directory"):
        open_store(path.parent / "missing" / "user_data.db")


@pytest.mark.parametrize("version", ["3.7.0", "3.9.2", "3.51.2", "3.51.2.9", "2.99.99"])
def test_an_old_sqlite_is_refused(version: str) -> None:
    """A SQLite with the WAL-reset bug is refused with its version, the reason and what to do."""
    with pytest.raises(SqliteRefused) as refusal:
        check_sqlite(version)
    for part in (f"SQLite {version} ", "WAL-reset bug", "3.51.3", "pip install"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "3.100.0", "4.0.0", ""])
def test_a_new_sqlite_is_accepted(version: str) -> None:
    """From the version that repaired the bug on, and so the one that is installed, all are good."""
    check_sqlite(version)


# --- Written to. ---


def test_users_are_inserted_and_counted(store: Store) -> None:
    """Rows are saved as they are, in any order, and the count and the newest id follow."""
    store.commit(users(5, 3), [])
    store.commit([], [])
    greatest = (2**63 - 1, 2**31 - 1, 2**31 - 1, bytes(range(256)), 2**63 - 1)
    store.commit([greatest, *users(4)], [])
    assert store.users == counted(store) == 4
    assert store.newest_id() == 2**63 - 1
    columns = "id, book, key_id, sealed, saved_at_ms"
    rows = store.connection.execute(f"SELECT {columns} FROM user").fetchall()
    assert rows == [*users(3, 4, 5), greatest]


def test_a_batch_is_saved_whole_or_not_at_all(store: Store) -> None:
    """Where one row cannot be saved none of its batch is, and the next batch is not affected."""
    named = Saving(username="alice", user_id=9)
    store.commit(users(1), [])
    with pytest.raises(apsw.ConstraintError):
        store.commit(users(2, 3, 1, 4), [named])
    assert store.users == counted(store) == 1
    assert store.commit(users(2), [named]) == [DONE]
    assert store.users == counted(store) == 3


def test_a_batch_that_fails_at_its_end_is_not_saved(store: Store) -> None:
    """Nothing of a batch is kept where what fails comes behind much that was done already."""
    store.commit(users(1), [Saving(username="alice", user_id=9)])
    before = [rows_of(store, table) for table in ("user", "request")]
    replace = Saving(username="alice", user_id=9, replaced=1, request_id="r")
    unusable = Saving(username="bob", user_id=2**63)
    with pytest.raises(OverflowError):
        store.commit(users(2), [replace, (DELETE, 1), unusable])
    assert [rows_of(store, table) for table in ("user", "request")] == before
    assert store.users == counted(store) == 2


def test_what_operations_find_changed_stops_nothing(store: Store) -> None:
    """An operation that is out of date changes nothing, and all else in its batch is saved."""
    store.commit([], [Saving(username="alice", user_id=9)])
    stale = Saving(username="alice", user_id=10)
    assert store.commit(users(1), [stale, (DELETE, 5), (DELETE, 9)]) == [STALE, STALE, DONE]
    assert store.users == counted(store) == 1


def test_a_commit_is_synced(store: Store) -> None:
    """Each commit waits for the disk: the log is synced (2 is FULL), and it is a log."""
    for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("wal_autocheckpoint", 0)):
        assert store.connection.pragma(pragma) == value


def test_a_checkpoint_empties_the_log_when_nobody_reads(path: Path, store: Store) -> None:
    """A checkpoint says whether everything is in the database, which a reader can delay."""
    store.commit(users(1), [])
    reader = apsw.Connection(str(path))  # not sqlite3: two libraries do not see each other's locks
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM user").fetchall() == [(1,)]
    store.commit(users(2), [])
    assert store.log_pages > 0
    assert not store.checkpoint()
    reader.close()
    assert store.checkpoint()
    shutil.copy(path, path.with_name("copy.db"))  # without the log
    with apsw.Connection(str(path.with_name("copy.db"))) as copied:
        assert copied.execute("SELECT count(*) FROM user").fetchall() == [(2,)]
    copied.close()


def test_a_closed_database_is_one_file(path: Path, folder: Path) -> None:
    """After a clean stop there is one file to copy or to delete, with everything in it."""
    make(path, users(*range(1, 500)))
    assert os.listdir(folder) == [path.name]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM user").fetchone() == (499,)
    connection.close()


def test_a_store_notices_that_its_files_are_gone(path: Path, store: Store) -> None:
    """A database that was removed, or replaced by another, and a log that was, are noticed."""
    assert (store.database_removed, store.log_removed) == (False, False)
    kept = path.with_name("kept.db")
    path.rename(kept)
    assert store.database_removed
    path.touch()
    assert store.database_removed
    kept.rename(path)
    assert not store.database_removed
    Path(f"{path}-wal").unlink()
    assert (store.database_removed, store.log_removed) == (False, True)
