"""A backup is whole, verified and for its owner only; a file with its name is never less."""

import os
import re
import stat
from pathlib import Path

import apsw
import pytest

from pwserver import lock_file
from pwserver.errors import ConfigError, DatabaseRefused, KeyRefused, StorageFailed
from tests.support.backups import Book, make_book, quietly
from tests.support.books import BOTH_KEYS, contents
from workers.admin.backup import back_up
from workers.admin.copied_book import Pace
from workers.storage.backup_files import unfinished_name
from workers.storage.sqlite import copying

USERS = 300


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return a book with some users."""
    return make_book(tmp_path, USERS)


def test_a_backup_has_everything_and_changes_nothing(book: Book, tmp_path: Path) -> None:
    """It has the number of users, says which keys it needs, and only its owner may read it."""
    before = contents(tmp_path)
    made = book.back_up(tmp_path / "copy.db")
    assert (made.path, made.users, made.keys) == (tmp_path / "copy.db", USERS, [1])
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert made.size_bytes == made.path.stat().st_size
    after = contents(tmp_path)
    assert after.pop("copy.db").startswith(b"SQLite format 3\0")
    assert after == before, "nothing else was made or changed"


def test_a_backup_has_the_state_of_its_beginning(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits between its steps neither get into it nor make it begin again."""
    monkeypatch.setattr(copying, "_STEP_PAGES", 2)
    store = book.open()
    steps: list[int] = []

    def save_meanwhile(what: str, done: int, total: int) -> None:
        if what == "Copying":
            steps.append(done)
            book.save(store, 10)

    made = back_up(book.settings, book.keyring, tmp_path / "copy.db", save_meanwhile, 0)
    store.close()
    assert made.users == USERS
    assert len(steps) > 2
    assert steps == sorted(steps)
    assert book.count() == USERS + 10 * len(steps)


def test_a_folder_gets_a_file_named_after_the_time(book: Book, tmp_path: Path) -> None:
    """So that a backup a day needs no more than the folder."""
    folder = tmp_path / "backups"
    folder.mkdir()
    made = book.back_up(folder)
    assert re.fullmatch(r"user_data-\d{8}T\d{6}Z\.db", made.path.name)
    assert [*folder.iterdir()] == [made.path]


def test_an_earlier_backup_is_replaced(book: Book, tmp_path: Path) -> None:
    """By one that was verified."""
    book.back_up(tmp_path / "copy.db")
    book.save_and_close(1)
    assert book.back_up(tmp_path / "copy.db").users == USERS + 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("user_data.db", "belongs to the book itself"),
        ("user_data.key", "belongs to the book itself"),
        ("user_data.db-wal", "belongs to the book itself"),
        ("notes.txt", "is there, and is no backup"),
        ("other.db", "is there, and is no backup"),
        ("link.db", "cannot be replaced"),
        ("missing/copy.db", "cannot be made: No such file or directory"),
    ],
)
def test_no_other_file_is_replaced(book: Book, tmp_path: Path, name: str, reason: str) -> None:
    """Neither what belongs to the book, nor what is no backup: one sentence, nothing changed."""
    (tmp_path / "notes.txt").write_text("notes" * 100)
    apsw.Connection(str(tmp_path / "other.db")).execute("CREATE TABLE t (x)")
    (tmp_path / "link.db").symlink_to("notes.txt")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        book.back_up(tmp_path / name)
    assert contents(tmp_path) == before


def test_a_book_in_use_is_not_replaced(book: Book, tmp_path: Path) -> None:
    """The book of another service is no earlier backup."""
    other = tmp_path / "other"
    other.mkdir()
    served = make_book(other, 1)
    store = served.open()
    with pytest.raises(ConfigError, match="is a book in use"):
        book.back_up(served.path)
    store.close()


def test_what_an_interruption_has_left_is_used_again(book: Book, tmp_path: Path) -> None:
    """A copy that was killed in the middle is no obstacle, and not taken for a backup."""
    part = tmp_path / "copy.db.part"
    part.touch(0o600)
    part.write_bytes(b"SQLite format 3\0" + b"x" * 10_000)
    book.back_up(tmp_path / "copy.db")
    assert not part.exists()


def test_two_do_not_write_one_file(book: Book, tmp_path: Path) -> None:
    """The second of two backups with one name is told so."""
    lock = lock_file.lock(tmp_path / "copy.db.part", os.geteuid())
    with pytest.raises(ConfigError, match="is being written by another pwserver"):
        book.back_up(tmp_path / "copy.db")
    lock_file.unlock(lock, tmp_path / "copy.db.part")


def test_a_copy_that_does_not_open_is_set_aside(book: Book, tmp_path: Path) -> None:
    """It gets no name of a backup, the earlier one stays, and the sentence says where it is."""
    folder = tmp_path / "backups"
    folder.mkdir()
    good = book.back_up(folder)
    store = book.open()
    store.connection.execute("UPDATE user SET sealed = zeroblob(60) WHERE id = 7")
    store.close()
    with pytest.raises(DatabaseRefused, match=r"is not in order: .+user 7 .+The copy was not"):
        book.back_up(folder)
    aside = (folder / unfinished_name(book.path)).with_suffix(".unverified")
    assert {*folder.iterdir()} == {good.path, aside}


def test_a_damaged_page_is_found(book: Book, tmp_path: Path) -> None:
    """What the disk has lost is not copied as if nothing were."""
    size = book.path.stat().st_size
    with open(book.path, "r+b") as file:
        file.seek(size - 4096)
        file.write(bytes(4096))
    with pytest.raises(DatabaseRefused, match="malformed"):
        book.back_up(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_without_the_keys_there_is_no_backup(book: Book, tmp_path: Path) -> None:
    """A copy that nobody could open is none."""
    with pytest.raises(KeyRefused, match="the key is not the one"):
        back_up(book.settings, BOTH_KEYS, tmp_path / "copy.db", quietly, 0)
    assert not (tmp_path / "copy.db").exists()


def test_the_reserve_of_the_disk_stays_free(book: Book, tmp_path: Path) -> None:
    """A backup beside the book does not use the room that saves need."""
    with pytest.raises(StorageFailed, match=r"there is no room for the copy in .+: it needs"):
        back_up(book.settings, book.keyring, tmp_path / "copy.db", quietly, 1 << 60)
    assert not list(tmp_path.glob("copy.db*"))


def test_an_interruption_leaves_nothing(book: Book, tmp_path: Path) -> None:
    """Ctrl-C in either stage removes the copy."""

    def interrupt(at: str) -> None:
        def told(what: str, done: int, total: int) -> None:
            if what == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(book.settings, book.keyring, tmp_path / "copy.db", told, 0)
        assert not list(tmp_path.glob("copy.db*"))

    interrupt("Copying")
    interrupt("Verifying")


def test_a_verification_rests_beside_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to the time of the processor that it used."""
    rests: list[float] = []
    used_s = iter([0.0, 0.001, 0.006, 0.006, 0.02, 0.02])
    monkeypatch.setattr("workers.admin.copied_book.time.thread_time", lambda: next(used_s))
    monkeypatch.setattr("workers.admin.copied_book.time.sleep", rests.append)
    pace = Pace(3.0)
    for _ in range(3):
        pace.keep()
    assert rests == pytest.approx([0.018, 0.042])
