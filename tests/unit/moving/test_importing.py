"""The import into a book in files: nothing is overwritten, nothing doubled, all is reported."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pwserver.client.results import Password, Saved
from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused, NotSaved, Refused
from pwserver.moving import importing
from pwserver.moving.importing import Import, Report
from pwserver.moving.naming import Named
from pwserver.moving.reading import recognised
from tests.support.books import KEYRING
from tests.support.exports import Login, chrome, json_lines
from workers.admin.book_at_rest import BookAtRest, book_at_rest
from workers.book.models import COMMON_BOOK

LOGINS = [Login(f"site {number:03}", "alice", f"password {number}") for number in range(50)]


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    """Return the settings of a book."""
    return StoreSettings(database=str(tmp_path / "user_data.db"))


@pytest.fixture
def book(settings: StoreSettings) -> Iterator[BookAtRest]:
    """Return an empty book of an application."""
    with book_at_rest(settings, KEYRING, 7, 0, 3) as opened:
        yield opened


def run(book: BookAtRest, text: str, *, overwrite: bool = False, dry_run: bool = False) -> Report:
    """Import a file to the end."""
    export = recognised(text.encode(), "FILE")
    run = Import(export, None, overwrite=overwrite, dry_run=dry_run)
    list(run.run(book, lambda done, total: None))
    return run.report


def content(book: BookAtRest) -> dict[str, tuple[str, int]]:
    """Return the password and the version of each user."""
    users = [*book.users()]
    passwords = book.read([user.username for user in users])
    return {
        user.username: (found.password, user.version)
        for user, found in zip(users, passwords, strict=True)
        if isinstance(found, Password)
    }


def test_everything_is_saved_once(book: BookAtRest) -> None:
    """A second run finds all of it there, and changes nothing."""
    text = chrome(LOGINS)
    assert run(book, text).fates == {"saved": 50}
    before = content(book)
    assert before == {f"{each.title}/alice": (each.password, 1) for each in LOGINS}
    report = run(book, text)
    assert (report.fates, report.incomplete) == ({"already there": 50}, False)
    assert content(book) == before


def test_an_interrupted_import_goes_on(book: BookAtRest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before the interruption is saved once; the report says how far it came."""
    monkeypatch.setattr(importing, "CHUNK", 10)
    export = recognised(chrome(LOGINS).encode(), "FILE")
    interrupted = Import(export, None, overwrite=False, dry_run=False)

    def interrupt(done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(interrupted.run(book, interrupt))
    assert interrupted.report.fates == {"saved": 30}
    assert run(book, chrome(LOGINS)).fates == {"already there": 30, "saved": 20}
    assert content(book) == {f"{each.title}/alice": (each.password, 1) for each in LOGINS}


def test_nothing_is_overwritten_silently(book: BookAtRest) -> None:
    """Another password under the same name is a conflict, reported by line."""
    run(book, chrome([Login(), Login("Other")]))
    report = run(book, chrome([Login(password="two"), Login("Other"), Login("New")]))
    assert report.fates == {"conflict": 1, "already there": 1, "saved": 1}
    assert report.incomplete
    (conflict,) = report.findings
    assert conflict == (
        2,
        "conflict",
        "is in conflict: 'Example/alice' is there with another password.",
    )
    assert content(book)["Example/alice"] == ("one", 1)


def test_overwriting_makes_a_version(book: BookAtRest) -> None:
    """The older password is kept, and so are labels where the file has none."""
    (saved,) = book.save([(Named(1, "Example/alice", "one", ("work",)), 0)])
    assert saved == Saved("Example/alice", 1)
    for fates in ({"overwritten": 1}, {"already there": 1}):
        report = run(book, chrome([Login(password="two")]), overwrite=True)
        assert (report.fates, report.incomplete) == (fates, False)
    (user,) = book.users()
    assert (user.version, user.labels) == (2, ["work"])
    assert content(book) == {"Example/alice": ("two", 2)}


def test_a_dry_run_changes_nothing(book: BookAtRest) -> None:
    """And says what the import would do."""
    run(book, chrome([Login(), Login("Other")]))
    before = content(book)
    text = chrome([Login(password="two"), Login("Other"), Login("New")])
    expected = {"conflict": 1, "already there": 1, "saved": 1}
    assert run(book, text, dry_run=True).fates == expected
    expected = {"overwritten": 1, "already there": 1, "saved": 1}
    assert run(book, text, dry_run=True, overwrite=True).fates == expected
    assert content(book) == before


def test_each_line_has_one_fate(book: BookAtRest) -> None:
    """Duplicates and broken lines are not counted among the saved."""
    text = chrome([Login(), Login(), Login(password="x" * 4097)]) + "broken\n"
    report = run(book, text)
    assert report.fates == {"saved": 1}
    assert (report.count("duplicate"), report.count("broken")) == (1, 2)
    assert [each.line for each in report.findings] == [5, 3, 4]


class Refusing:
    """A book that refuses one name and changes another while it is imported."""

    def __init__(self, book: BookAtRest) -> None:
        self._book = book
        self.users, self.read, self.verify = book.users, book.read, book.verify

    def save(self, wanted: Sequence[tuple[Named, int]]) -> list[Saved | Refused]:
        for named, version in wanted:
            if version and named.name == "changed":
                self._book.save([(named._replace(password="theirs"), version)])
        results = self._book.save([each for each in wanted if each[0].name != "refused"])
        results += [NotSaved("Why.") for named, _ in wanted if named.name == "refused"]
        return results


def test_what_the_service_refuses_is_reported(book: BookAtRest) -> None:
    """The others are saved; what somebody else changes meanwhile is not overwritten."""
    run(book, json_lines([Login("changed")]))
    export = recognised(
        json_lines([Login("changed", "", "two"), Login("refused")]).encode(), "FILE"
    )
    importing_run = Import(export, None, overwrite=True, dry_run=False)
    list(importing_run.run(Refusing(book), lambda done, total: None))
    report = importing_run.report
    assert report.fates == {"conflict": 1, "refused": 1}
    assert content(book) == {"changed": ("theirs", 2)}
    assert (2, "broken", "is refused by the service: Why.") in report.findings


def test_books_are_apart(settings: StoreSettings) -> None:
    """What is imported into one is not in another."""
    with book_at_rest(settings, KEYRING, 7, 0, 3) as book:
        run(book, chrome([Login()]))
    with book_at_rest(settings, KEYRING, COMMON_BOOK, 0, 3) as common:
        assert content(common) == {}
        assert run(common, chrome([Login(password="two")])).fates == {"saved": 1}


def test_the_most_users_of_a_book_are_the_most(settings: StoreSettings) -> None:
    """The rest is refused, with the service's own reason."""
    with book_at_rest(settings, KEYRING, 7, 20, 3) as book:
        report = run(book, chrome(LOGINS))
        assert report.fates == {"saved": 20, "refused": 30}
        assert "has 20 users, as many as it may have" in report.findings[0].what


def test_a_book_at_rest_is_one_that_no_service_has(settings: StoreSettings) -> None:
    """It takes the lock of services, and so refuses a second one."""
    with (
        book_at_rest(settings, KEYRING, 7, 0, 3),
        pytest.raises(DatabaseRefused, match="in use by another pwserver"),
        book_at_rest(settings, KEYRING, 7, 0, 3),
    ):
        raise AssertionError("two have the book")
