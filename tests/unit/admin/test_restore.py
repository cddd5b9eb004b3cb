"""A backup that is put back: verified first, the old book kept, and what was decided stays so."""

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from pwserver.errors import (
    AuditRefused,
    ConfigError,
    DatabaseRefused,
    KeyRefused,
    PwserverError,
)
from tests.support.backups import Book, make_book
from tests.support.books import contents
from workers.admin.administration import administration
from workers.admin.rotation import add_key, rotate
from workers.admin.setup import prepare
from workers.audit.reading import Records
from workers.book.keyring import read_keyring

OLD, NEW = 20, 25


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return a book of which there is a backup, and in which more was saved since."""
    folder = tmp_path / "book"
    folder.mkdir()
    book = make_book(folder, OLD)
    with administration(book.settings) as files:
        files.add("shop", ["save"], common=False)
        files.add("web", ["save"], common=False)
    book.back_up(tmp_path / "copy.db")
    book.save_and_close(NEW - OLD)
    return book


@pytest.fixture
def copy(book: Book, tmp_path: Path) -> Path:
    """Return the backup."""
    return tmp_path / "copy.db"


def test_the_book_is_the_backup_and_the_old_one_is_kept(book: Book, copy: Path) -> None:
    """The service starts on it at once; the old book is whole under its new name."""
    restored = book.restore(copy)
    assert (restored.found.users, restored.changed, restored.rotate_to) == (OLD, [], 0)
    prepare(book.settings, to_serve=True)
    assert book.count() == OLD
    assert restored.kept is not None
    again = book.restore(restored.kept)
    assert (again.found.users, book.count()) == (NEW, NEW)


def test_what_was_only_in_the_log_is_kept_too(book: Book, copy: Path) -> None:
    """A killed service leaves a log; it neither gets into the new book nor is it lost."""
    store = book.open()
    book.save(store, 5)
    files = {path: path.read_bytes() for path in book.path.parent.glob("user_data.db*")}
    store.close()
    for path, content in files.items():  # as a kill would have left them
        path.write_bytes(content)
    restored = book.restore(copy)
    assert restored.kept is not None
    prepare(book.settings, to_serve=True)
    assert book.count() == OLD
    assert book.restore(restored.kept).found.users == NEW + 5


def test_a_damaged_book_is_kept_with_its_log(book: Book, copy: Path) -> None:
    """It can be replaced, whatever is wrong with it, and somebody may still look at it."""
    book.path.write_bytes(b"no database" * 1000)
    log = Path(f"{book.path}-wal")
    log.touch(0o600)
    log.write_bytes(b"no log" * 1000)
    kept = book.restore(copy).kept
    assert kept is not None
    assert kept.read_bytes() == b"no database" * 1000
    assert Path(f"{kept}-wal").read_bytes() == b"no log" * 1000
    prepare(book.settings, to_serve=True)
    assert book.count() == OLD


def test_a_lost_book_is_restored(book: Book, copy: Path) -> None:
    """Onto another disk, where there is the key file and nothing else."""
    for path in book.path.parent.glob("user_data.db*"):
        path.unlink()
    assert book.restore(copy).kept is None
    prepare(book.settings, to_serve=True)
    assert book.count() == OLD


def test_what_was_revoked_since_stays_revoked(book: Book, copy: Path) -> None:
    """The application is named; it may do nothing until it gets a new token."""
    with administration(book.settings) as files:
        files.revoke("shop")
    assert book.restore(copy).changed == ["shop"]
    prepare(book.settings, to_serve=True)
    with administration(book.settings) as files:
        old = {row.name: files.is_old_copy(row) for row in files.applications()}
        assert old == {"shop": True, "web": False}


def test_a_newer_key_goes_on_to_seal(book: Book, copy: Path) -> None:
    """The service starts, and a rotation seals what is older than the key."""
    with administration(book.settings) as files:
        add_key(files)
    with administration(book.settings) as files:
        rotate(files, lambda *_: None, beside_service=False)
    book.keyring = read_keyring(book.settings.key_path)
    restored = book.restore(copy)
    assert (restored.rotate_to, restored.found.keys) == (2, [1])
    prepare(book.settings, to_serve=True)
    with administration(book.settings) as files:
        assert rotate(files, lambda *_: None, beside_service=False) == []
    assert book.restore(copy).rotate_to == 2


def test_the_record_says_that_it_was_done(book: Book, copy: Path) -> None:
    """Before it is done; without a record, nothing is."""
    book.restore(copy)
    records = Records([book.settings.audit_path])
    assert [each.more.get("command") for each in records][-1] == "restore"
    book.settings.audit_path.unlink()
    before = contents(book.path.parent)
    book.settings.audit_path.mkdir()
    with pytest.raises(AuditRefused, match="Nothing was done"):
        book.restore(copy)
    book.settings.audit_path.rmdir()
    after = contents(book.path.parent)
    assert after["user_data.db"] == before["user_data.db"]
    assert after.keys() == before.keys()


def cut(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-5000])


def damage(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-4096] + bytes(4096))


def alter(copy: Path) -> None:
    connection = apsw.Connection(str(copy))
    connection.execute("UPDATE user SET sealed = zeroblob(60) WHERE id = 7")
    connection.close()


def foreign(copy: Path) -> None:
    copy.unlink()
    connection = apsw.Connection(str(copy))
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def folder(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


def older(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[60:64] = (4).to_bytes(4, "big")
    copy.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], object], type[PwserverError], str]] = {
    "missing": (Path.unlink, ConfigError, "there is no file .+copy.db"),
    "cut short": (cut, DatabaseRefused, r"copy\.db is cut short: it has [\d,]+ of [\d,]+ bytes"),
    "empty": (lambda copy: copy.write_bytes(b""), DatabaseRefused, "is not a database"),
    "a text": (lambda copy: copy.write_text("x" * 5000), DatabaseRefused, "is not a database"),
    "another program's": (foreign, DatabaseRefused, "is a database of another program"),
    "of another version": (older, DatabaseRefused, r"copy\.db has schema version 4"),
    "with a lost page": (damage, DatabaseRefused, r"copy\.db is not in order: it is damaged"),
    "with an altered row": (alter, DatabaseRefused, r"copy\.db is not in order: .+user 7 "),
    "writable by others": (lambda copy: copy.chmod(0o666), ConfigError, "may be changed by others"),
    "a folder": (folder, ConfigError, "is a directory"),
    "with a log": (
        lambda copy: Path(f"{copy}-wal").write_text("x"),
        DatabaseRefused,
        "is not whole without its log",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_backup_is_refused(book: Book, copy: Path, what: str) -> None:
    """In one sentence that names it, and nothing in the folder of the book has changed."""
    spoil, error, sentence = BAD[what]
    spoil(copy)
    before = contents(book.path.parent)
    with pytest.raises(error, match=sentence) as refused:
        book.restore(copy)
    assert "restoring" not in str(refused.value)
    assert contents(book.path.parent) == before


def test_a_backup_made_with_another_key_is_refused(
    book: Book, copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Before anything is replaced; the sentence says how to go on."""
    other = make_book(tmp_path_factory.mktemp("other"), 1)
    with pytest.raises(KeyRefused, match=r"copy\.db was sealed with\. Put the right key file back"):
        other.restore(copy)
    assert other.count() == 1


def test_without_the_newest_key_nothing_is_restored(book: Book, copy: Path) -> None:
    """A service could not seal with it; it is said before anything is replaced."""
    before = book.keyring
    with administration(book.settings) as files:
        add_key(files)
    with administration(book.settings) as files:
        rotate(files, lambda *_: None, beside_service=False)
    book.keyring = before
    with pytest.raises(KeyRefused, match="the key file lacks key 2"):
        book.restore(copy)


def test_a_service_keeps_others_from_restoring(book: Book, copy: Path) -> None:
    """Also where it got to the book by another path."""
    store = book.open()
    with pytest.raises(DatabaseRefused, match="is in use by another pwserver"):
        book.restore(copy)
    store.close()
    assert book.count() == NEW
