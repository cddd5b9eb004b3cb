"""The export of a book in files: what is written, for whom, and that it can be read again."""

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pwserver.client.results import Password, Saved
from pwserver.config import StoreSettings
from pwserver.errors import ConfigError, Refused, StorageFailed, Unavailable
from pwserver.moving.exporting import Exported, FormatName, check_place, export, new_file
from pwserver.moving.importing import Import
from pwserver.moving.naming import Named
from pwserver.moving.reading import recognised
from tests.support import exports
from tests.support.books import KEYRING
from workers.admin.book_at_rest import BookAtRest, book_at_rest

USERS = [
    Named(1, "alice", "one", ()),
    Named(2, "example.com/bob", 'with "quotes", and\r\na newline', ("Work/Clients",)),
    Named(3, "two  spaces/", "älso ü\N{SNOWMAN}", ("a", "b")),
    Named(4, "/x//y", "=1+1", ()),
]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[BookAtRest]:
    """Return a book with some users."""
    settings = StoreSettings(database=str(tmp_path / "user_data.db"))
    with book_at_rest(settings, KEYRING, 7, 0, 3) as opened:
        saved = opened.save([(each, 0) for each in USERS])
        assert all(isinstance(each, Saved) for each in saved)
        yield opened


def written(book: BookAtRest, form: FormatName) -> tuple[str, Exported]:
    """Return the text of an export, and what is said of it."""
    file = io.StringIO(newline="")
    exported = export(book, file, form, lambda done, total: None)
    return file.getvalue(), exported


@pytest.mark.parametrize("form", ["jsonl", "bitwarden", "keepassxc"])
def test_what_is_exported_can_be_imported(
    book: BookAtRest, tmp_path: Path, form: FormatName
) -> None:
    """A new book has the same names, passwords and labels; CSV has one label for each user."""
    text, exported = written(book, form)
    (tmp_path / "new").mkdir()
    settings = StoreSettings(database=str(tmp_path / "new" / "user_data.db"))
    with book_at_rest(settings, KEYRING, 7, 0, 3) as new:
        run = Import(recognised(text.encode(), "FILE"), None, overwrite=False, dry_run=False)
        list(run.run(new, lambda done, total: None))
        found = {
            user.username: (password.password, tuple(user.labels))
            for user in new.users()
            for password in new.read([user.username])
            if isinstance(password, Password)
        }
    most = 16 if form == "jsonl" else 1
    assert found == {each.name: (each.password, each.labels[:most]) for each in USERS}
    assert exported == Exported(4, 0 if form == "jsonl" else 1)
    assert (run.report.fates, run.report.findings) == ({"saved": 4}, [])


def test_the_csv_has_the_headers_that_the_managers_write(book: BookAtRest) -> None:
    """The last slash divides a title and a login."""
    text, _ = written(book, "bitwarden")
    rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    assert ",".join(rows[0]) == exports.BITWARDEN
    row = next(each for each in rows if each["login_username"] == "bob")
    assert (row["type"], row["name"], row["folder"]) == ("login", "example.com", "Work/Clients")
    assert row["login_password"] == USERS[1].password
    text, _ = written(book, "keepassxc")
    rows = [*csv.DictReader(io.StringIO(text, newline=""))]
    assert ",".join(rows[0]) == exports.KEEPASSXC
    row = next(each for each in rows if each["Username"] == "bob")
    assert (row["Group"], row["Title"]) == ("Root/Work/Clients", "example.com")


def test_json_lines_have_versions_and_times(book: BookAtRest) -> None:
    """They are for people and programs; an import does not use them."""
    text, _ = written(book, "jsonl")
    first = json.loads(text.splitlines()[1])
    assert [*first] == ["username", "password", "labels", "version", "time_saved"]
    assert (first["username"], first["version"]) == ("alice", 1)


class Withholding:
    """A book that gives no password of one user, and in which another has just been deleted."""

    def __init__(self, book: BookAtRest) -> None:
        self._book = book
        self.users, self.save, self.verify = book.users, book.save, book.verify

    def read(self, names: Sequence[str]) -> list[Password | Refused]:
        asked = ["nobody" if name == "alice" else name for name in names]
        found = self._book.read(asked)
        return [Unavailable("Altered.") if name == "/x//y" else each
                for name, each in zip(names, found, strict=True)]  # fmt: skip


def test_what_is_not_given_out_is_named(book: BookAtRest) -> None:
    """The others are exported."""
    file = io.StringIO()
    exported = export(Withholding(book), file, "jsonl", lambda done, total: None)
    assert exported == Exported(2, 0, ["/x//y"])
    assert len(file.getvalue().splitlines()) == 2


# --- The file. ---


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """It gets its name at the end, and nothing else is left."""
    path = tmp_path / "export.jsonl"
    with new_file(path, replaces=check_place(path)) as file:
        assert not path.exists()
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        file.write("one\n")
    assert [each.name for each in tmp_path.iterdir()] == ["export.jsonl"]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("one\n", 0o600)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """One that was readable by others is not any more."""
    path = tmp_path / "export.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    with new_file(path, replaces=check_place(path)) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def write(path: Path, meanwhile: Callable[[], object]) -> None:
    """Write a new file, while something else happens."""
    with new_file(path, replaces=check_place(path)) as file:
        file.write("new")
        meanwhile()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Nobody was asked about it."""
    path = tmp_path / "export.jsonl"
    with pytest.raises(ConfigError, match="is there now, and was not when you were asked"):
        write(path, lambda: path.write_text("theirs"))
    assert [each.name for each in tmp_path.iterdir()] == ["export.jsonl"]
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """An interruption or a full disk: no password stays in a file."""

    def fail() -> None:
        raise error

    with pytest.raises((KeyboardInterrupt, StorageFailed)):
        write(tmp_path / "export.jsonl", fail)
    assert [*tmp_path.iterdir()] == []


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    """Before anything is asked or read."""
    with pytest.raises(ConfigError, match=r"is a directory, and not a file"):
        check_place(tmp_path)
    with pytest.raises(ConfigError, match="no file name has"):
        check_place(tmp_path / "\0")
    path = tmp_path / "missing" / "export.jsonl"
    with pytest.raises(ConfigError, match=r"cannot be made: No such file or directory"):
        write(path, lambda: None)
