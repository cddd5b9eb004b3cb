"""The database: made, opened, written to and administered, without any process around it."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.errors import DatabaseRefused, KeyRefused, SqliteRefused
from pwserver.limits import LOG_BYTES_KEPT
from pwserver.secret import Secret
from tests.support.books import (
    BOTH_KEYS,
    KEY,
    KEYRING,
    NEXT_KEY,
    Saving,
    contents,
    crash,
    make_book,
    next_version,
    open_store,
    rows_of,
    take_key,
    users,
)
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.models import SCHEMA_VERSION, Application, ApplicationRow, Key, User
from workers.storage.operations import DELETE, DONE, STALE
from workers.storage.sqlite.database import (
    Store,
    check_database,
    holds_a_book,
    is_in_use,
    open_to_administer,
)
from workers.storage.sqlite.validation import check_sqlite


def counted(store: Store) -> int:
    """Return how many users are found when they are counted."""
    store.count_users()
    return store.users


def header_field(path: Path, offset: int) -> int:
    """Return a number of a database's header (https://sqlite.org/fileformat.html#1.3)."""
    with open(path, "rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(4), "big")


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
    assert header_field(path, 60) == SCHEMA_VERSION == 5
    assert header_field(path, 68).to_bytes(4, "big") == b"pwSv"


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    """A file of no bytes holds nothing to protect, so it is used."""
    path.touch()
    assert not holds_a_book(path)
    make_book(path, users(1))
    assert holds_a_book(path)


def test_a_missing_file_holds_no_book(path: Path) -> None:
    """A key file may be made only where no database can need an older one."""
    assert not holds_a_book(path)
    assert not holds_a_book(path / "below a file")


def test_users_are_there_after_reopening(path: Path) -> None:
    """What was saved is there when the database is opened again, and can be added to."""
    make_book(path, users(1, 2))
    check_database(path, KEYRING)
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
    make_book(Path(name), users(1))
    assert list(contents(folder)) == [name]
    store = open_store(Path(name))
    assert counted(store) == 1
    store.close()


def test_leftovers_of_a_removed_database_are_not_taken_into_a_fresh_one(path: Path) -> None:
    """Where only the database file was deleted, the old log's users do not come back."""
    make_book(path, users(1))
    crash(path, "UPDATE user SET saved_at_ms = 5")
    shutil.copy(path, f"{path}-shm")
    path.unlink()
    store = open_store(path)
    assert counted(store) == 0
    store.commit(users(7), [])
    assert [row[0] for row in rows_of(store, "user")] == [7]
    store.close()
    assert os.listdir(path.parent) == [path.name]


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


# --- Keys. ---


def test_a_key_more_than_needed_does_no_harm(path: Path) -> None:
    """A key that was added and is not used yet, or an old one, is in nobody's way."""
    make_book(path, users(1))
    store = open_store(path, BOTH_KEYS)
    assert store.keys() == KEYRING.check_values
    store.close()


def test_a_fresh_database_is_sealed_with_the_newest_key(path: Path) -> None:
    """It knows that one and the integrity key: nothing in it needs another."""
    store = open_store(path, BOTH_KEYS)
    integrity = (INTEGRITY_ID, BOTH_KEYS.check_values[INTEGRITY_ID])
    assert rows_of(store, "key") == [(*integrity, 0), (NEXT_KEY.id, NEXT_KEY.check_value, 1)]
    assert list(store.keys()) == [INTEGRITY_ID, NEXT_KEY.id]
    store.close()
    assert list(BOTH_KEYS.check_values) == [INTEGRITY_ID, KEY.id, NEXT_KEY.id]


def test_another_integrity_key_is_found_at_the_start(path: Path) -> None:
    """It vouches for applications and the record: nothing would say later what is wrong."""
    open_store(path).close()
    with pytest.raises(KeyRefused, match="integrity key in the key file is not the one"):
        open_store(path, Keyring(KEYRING.keys, Secret(b"j" * 32)))


def test_the_key_that_seals_is_told_last(store: Store) -> None:
    """Whichever of them it is: so a book that is made again goes on with it."""
    take_key(store, 7)
    for sealing, order in ((7, [0, 1, 7]), (1, [0, 7, 1])):
        Key.update(seals=Key.id == sealing).execute()
        assert list(store.keys()) == order


# --- Written to. ---


def test_users_are_inserted_and_counted(store: Store) -> None:
    """Rows are saved as they are, in any order, and the count and the newest id follow."""
    store.commit(users(5, 3), [])
    store.commit([], [])
    take_key(store, 2**31 - 1)
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
    replace = next_version(store, 9, request_id="r")
    unusable = Saving(username="bob", user_id=2**63)
    with pytest.raises(OverflowError):
        store.commit(users(2), [replace, (DELETE, None, 1), unusable])
    assert [rows_of(store, table) for table in ("user", "request")] == before
    assert store.users == counted(store) == 2


def test_what_operations_find_changed_stops_nothing(store: Store) -> None:
    """An operation that is out of date changes nothing, and all else in its batch is saved."""
    store.commit([], [Saving(username="alice", user_id=9)])
    stale = Saving(username="alice", user_id=10)
    assert store.commit(users(1), [stale, (DELETE, None, 5), (DELETE, None, 9)]) == [
        STALE,
        STALE,
        DONE,
    ]
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


def test_a_log_that_a_reader_let_grow_is_cut_again(path: Path, store: Store) -> None:
    """When the reader has gone; else a disk that it has filled would stay full until a stop."""
    log = path.with_name(f"{path.name}-wal")
    reader = apsw.Connection(str(path))
    store.commit(users(1), [])
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM user").fetchall() == [(1,)]
    long_row = (2, 0, 1, bytes(LOG_BYTES_KEPT + 1), 0)
    store.commit([long_row], [])
    assert not store.checkpoint()
    assert log.stat().st_size > LOG_BYTES_KEPT
    reader.close()
    assert store.checkpoint()
    store.commit(users(3), [])
    assert log.stat().st_size <= LOG_BYTES_KEPT


def test_a_closed_database_is_one_file(path: Path, folder: Path) -> None:
    """After a clean stop there is one file to copy or to delete, with everything in it."""
    make_book(path, users(*range(1, 500)))
    assert os.listdir(folder) == [path.name]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM user").fetchone() == (499,)
    connection.close()


def test_a_store_notices_that_its_files_are_gone(path: Path, store: Store) -> None:
    """A database that was removed, or replaced by another, and a log that was, are noticed."""
    assert (store.files.database_removed, store.files.log_removed) == (False, False)
    kept = path.with_name("kept.db")
    path.rename(kept)
    assert store.files.database_removed
    path.touch()
    assert store.files.database_removed
    kept.rename(path)
    assert not store.files.database_removed
    Path(f"{path}-wal").unlink()
    assert (store.files.database_removed, store.files.log_removed) == (False, True)


# --- Administered. ---


def test_a_book_is_administered_while_it_is_written_to(path: Path, store: Store) -> None:
    """Both see what the other has committed, and neither loses anything."""
    store.commit(users(1), [])
    with open_to_administer(path, KEYRING) as administered:
        assert User.select().count() == 1
        store.commit(users(2), [])
        with administered.atomic("IMMEDIATE"):
            assert User.select().count() == 2
            Application.insert(ApplicationRow(1, "shop", 1, "", 0, None)._asdict()).execute()
        store.commit(users(3), [])
    assert [row[0] for row in rows_of(store, "user")] == [1, 2, 3]
    assert len(rows_of(store, "application")) == 1
    assert not store.files.database_removed
    assert not store.files.log_removed


def test_no_database_is_made_to_be_administered(path: Path, folder: Path) -> None:
    """Where there is none, or no more than an empty file, that is said and nothing is made."""
    for exists in (False, True):
        if exists:
            path.touch()
        with pytest.raises(DatabaseRefused), open_to_administer(path, KEYRING):
            pytest.fail("there is nothing to administer")
        assert contents(folder) == {}


def test_a_book_in_use_is_known(path: Path) -> None:
    """While a service has a database open it is in use; before, afterwards and if missing not."""
    assert not is_in_use(path)
    store = open_store(path)
    for _ in range(2):
        assert is_in_use(path)
    store.close()
    for _ in range(2):
        assert not is_in_use(path)
    assert list(path.parent.iterdir()) == [path]
