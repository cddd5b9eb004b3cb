"""Whether a log belongs to its database: told of every pair, never denied after a mere kill."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from pwserver.errors import DatabaseRefused
from tests.support.books import KEYRING, contents, make_book, open_store, users
from workers.storage.sqlite.database import Store, check_database, opened_to_examine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made, in a folder of its own."""
    folder = tmp_path / "book"
    folder.mkdir()
    return folder / "user_data.db"


def log_of(path: Path) -> Path:
    """Return the path of a database's log."""
    return Path(f"{path}-wal")


def counted(path: Path) -> int:
    """Return how many users a database has, as a service finds it."""
    check_database(path, KEYRING)
    connection = apsw.Connection(str(path))
    (number,) = next(connection.execute("SELECT count(*) FROM user"))
    connection.close()
    assert isinstance(number, int)
    return number


def killed(store: Store, to: Path) -> Path:
    """Return a copy of an open database with its log: what a kill at this moment leaves."""
    to.mkdir()
    for file in (store.path, log_of(store.path)):
        if file.exists():
            shutil.copy(file, to)
    return to / store.path.name


def begun(path: Path) -> Store:
    """Return a database as the writer opens it."""
    store = open_store(path)
    store.begin_log()
    return store


def refuses(path: Path, *words: str) -> None:
    """Make sure that a database is refused by all that open one, in these words, and unchanged."""
    before = contents(path.parent)
    for open_it in (
        lambda: check_database(path, KEYRING),
        lambda: open_store(path),
        lambda: opened_to_examine(path, KEYRING).__enter__(),
    ):
        with pytest.raises(DatabaseRefused) as refused:
            open_it()
        for word in words:
            assert word in str(refused.value)
        shm = Path(f"{path}-shm")  # no content: it is made from the log
        shm.unlink(missing_ok=True)
        assert contents(path.parent) == before


def test_a_backup_beside_the_log_of_a_killed_service_is_refused(path: Path, tmp_path: Path) -> None:
    """The backup was made by a clean stop; both ways out are said, and the first one works."""
    make_book(path, users(*range(1, 1001)))
    backup = shutil.copy(path, tmp_path / "backup")
    store = begun(path)
    store.commit(users(*range(2001, 2501)), [])
    left = killed(store, tmp_path / "killed")
    store.close()
    shutil.copy(backup, left)
    refuses(left, "do not belong together", f"rm {log_of(left)} {left}-shm", "put the former")
    log_of(left).unlink()
    assert counted(left) == 1000


def test_a_backup_of_an_earlier_log_is_refused(path: Path, tmp_path: Path) -> None:
    """A copy that was made while the service ran, before its log was last copied."""
    store = begun(path)
    store.commit(users(1), [])
    connection = apsw.Connection(str(path))
    connection.execute("VACUUM INTO ?", (str(tmp_path / "vacuumed"),))
    connection.close()
    assert store.checkpoint()
    shutil.copy(path, tmp_path / "copied")
    for id in range(2, 5):
        store.commit(users(id), [])
        assert store.checkpoint()
    store.commit(users(9), [])
    for number, name in enumerate(("vacuumed", "copied")):
        left = killed(store, tmp_path / f"killed {number}")
        shutil.copy(tmp_path / name, left)
        refuses(left, "do not belong together")
    store.close()


def test_the_log_of_another_database_is_refused(path: Path, tmp_path: Path) -> None:
    """However alike the two are."""
    (tmp_path / "other").mkdir()
    books = [begun(path), begun(tmp_path / "other" / path.name)]
    for store in books:
        store.commit(users(1), [])
    one, other = (killed(store, tmp_path / f"{at}") for at, store in enumerate(books))
    for store in books:
        store.close()
    shutil.copy(log_of(other), log_of(one))
    refuses(one, "do not belong together")


def test_an_empty_file_beside_a_log_is_refused(path: Path, tmp_path: Path) -> None:
    """SQLite would delete the log, and with it what is nowhere else."""
    store = begun(path)
    store.commit(users(1), [])
    left = killed(store, tmp_path / "killed")
    store.close()
    os.truncate(left, 0)
    refuses(left, "is empty, but its log", f"rm {left} {log_of(left)}")


def test_a_database_that_was_removed_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    """Whoever removes only the database gets a fresh book, whatever the log was of."""
    store = begun(path)
    store.commit(users(1), [])
    left = killed(store, tmp_path / "killed")
    store.close()
    left.unlink()
    assert counted(left) == 0


def overwrite_while_open(store: Store, with_what: Path) -> None:
    """Copy another database over one that is open, as `cp` does."""
    with open(with_what, "rb") as source, open(store.path, "r+b") as target:
        target.truncate()
        shutil.copyfileobj(source, target)


@pytest.mark.parametrize("act", [Store.checkpoint, Store.close])
def test_a_backup_copied_over_an_open_book_is_not_written_to(
    path: Path, tmp_path: Path, act: Callable[[Store], object]
) -> None:
    """Neither is the log copied into it nor is the log removed: what to do is said."""
    make_book(path, users(*range(1, 101)))
    backup = Path(shutil.copy(path, tmp_path / "backup"))
    store = begun(path)
    store.commit(users(*range(2001, 2101)), [])
    overwrite_while_open(store, backup)
    with pytest.raises(DatabaseRefused, match="do not belong together"):
        act(store)
    assert path.read_bytes() == backup.read_bytes()
    if act is Store.checkpoint:
        with pytest.raises(DatabaseRefused):
            store.close()
    log_of(path).unlink()
    assert counted(path) == 100


def test_a_kill_at_any_moment_is_no_reason_to_refuse(path: Path, tmp_path: Path) -> None:
    """Between commits and checkpoints, complete ones and such that a reader is in the way of."""
    moments = 0
    saved = 0
    reader: apsw.Connection | None = None
    store = open_store(path)

    def look() -> None:
        nonlocal moments
        moments += 1
        assert counted(killed(store, tmp_path / f"killed {moments}")) == saved

    look()
    store.begin_log()
    for turn in range(30):
        look()
        if turn % 5 != 2:
            saved += 1
            store.commit(users(saved), [])
            look()
        if turn % 7 == 3:
            reader = apsw.Connection(str(path))
            reader.execute("BEGIN; SELECT * FROM generation")
        if turn % 7 == 6 and reader is not None:
            reader.close()
        if turn % 3 == 0:
            store.checkpoint()
            look()
        if turn % 11 == 10:
            store.commit([], [])
            store.close()
            look()
            store = open_store(path)
            if turn % 2:
                store.begin_log()
    store.close()
    look()
    assert moments > 60


def test_what_others_copy_and_begin_is_no_reason_to_refuse(path: Path, tmp_path: Path) -> None:
    """A command beside the service may copy the log, and begin the next one, between any two."""
    store = begun(path)
    other = apsw.Connection(str(path))
    for turn in range(1, 30):
        store.commit(users(turn), [])
        if turn % 2:
            other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if turn % 3:
            other.execute("UPDATE key SET seals = seals")
        if turn % 5 == 0:
            store.checkpoint()
        assert counted(killed(store, tmp_path / f"killed {turn}")) == turn
    other.close()
    store.close()


def test_every_log_has_numbers_of_its_own(path: Path) -> None:
    """One change a log, not one a commit: saves do not get slower."""
    store = begun(path)
    seen = []
    for turn in range(12):
        store.commit(users(turn + 1), [])
        (numbers,) = store.connection.execute("SELECT previous, current FROM generation")
        seen.append(numbers)
        if turn % 4 == 3:
            assert store.checkpoint()
    store.close()
    assert len(set(seen)) == 3
    (_, first), (previous, second), (last, _) = seen[0], seen[4], seen[8]
    assert (previous, last) == (first, second)
