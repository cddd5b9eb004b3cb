"""Old copies of applications are told from the present ones, also after kills and restarts."""

import logging
from pathlib import Path

import pytest

from pwserver.errors import DatabaseRefused
from pwserver.limits import APPLICATIONS_MAX
from pwserver.secret import Secret
from tests.support.books import KEY, KEYRING
from workers.auth.revisions import RevisionFile, Revisions
from workers.book.keyring import Keyring
from workers.book.models import ApplicationRow


def row(number: int, revision: int) -> ApplicationRow:
    """Return the row of an application."""
    return ApplicationRow(number, f"a{number}", number, "get", 0, b"t", revision=revision)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file is."""
    return tmp_path / "user_data.revisions"


@pytest.fixture
def file(path: Path) -> RevisionFile:
    """Return it with two applications in it."""
    file = RevisionFile(path, KEYRING)
    file.note([row(1, 4), row(2, 5)], sealing_key=3)
    return file


def test_in_a_new_book_everything_is_accepted() -> None:
    """So it is for a book that was copied without the file."""
    assert Revisions().allows(row(1, 1))
    assert Revisions().next([]) == 1


def test_what_is_older_is_refused(file: RevisionFile) -> None:
    """The present row and newer ones are accepted, whether the file knows them yet or not."""
    known = file.revisions
    assert [known.allows(row(1, revision)) for revision in (3, 4, 5)] == [False, True, True]
    assert [known.allows(row(9, revision)) for revision in (5, 6)] == [False, True]
    assert known.next([row(1, 4), row(2, 5)]) == 6
    assert known.next([row(3, 8)]) == 9


def test_an_old_copy_changes_nothing(path: Path, file: RevisionFile) -> None:
    """Neither an old row, nor a row that is missing, nor an older key."""
    before = file.revisions
    file.note([row(1, 3)], sealing_key=1)
    assert file.revisions == before == RevisionFile(path, KEYRING).read()
    assert not file.revisions.allows(row(1, 3))


def test_what_was_decided_counts_beside_an_older_row(file: RevisionFile) -> None:
    """Somebody has put that back meanwhile; in whichever order they come."""
    for rows in ([row(1, 4), row(1, 6)], [row(1, 8), row(1, 6)]):
        file.note(rows, sealing_key=3)
    assert not file.revisions.allows(row(1, 7))
    assert file.revisions.allows(row(1, 8))


def test_an_application_is_forgotten_after_many_others(file: RevisionFile) -> None:
    """Not while it is there; and the file stays small."""
    for number in range(3, APPLICATIONS_MAX + 3):
        file.revisions = file.revisions.after([row(1, 4), row(number, number + 10)], 3)
    known = file.revisions
    assert known.allows(row(1, 4))
    assert not known.allows(row(1, 3))
    assert len(known.applications) == APPLICATIONS_MAX + 1
    assert 2 not in known.applications
    assert not known.allows(row(2, 5))


def test_a_change_of_another_process_is_noticed(path: Path, file: RevisionFile) -> None:
    """At the next look, and it is private."""
    other = RevisionFile(path, KEYRING)
    other.look()
    file.note([row(1, 6)], sealing_key=4)
    assert other.revisions != file.revisions
    other.look()
    assert other.revisions == file.revisions
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["old", "gone", "damaged", "readable by others"])
def test_a_process_does_not_forget(
    path: Path, file: RevisionFile, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happens to the file while it runs."""
    before = path.read_bytes()
    file.note([row(1, 6)], sealing_key=4)
    file.look()
    known = file.revisions
    path.unlink()
    if what != "gone":
        path.write_bytes(before.replace(b":4", b":3") if what == "damaged" else before)
        path.chmod(0o644 if what == "readable by others" else 0o600)
    with caplog.at_level(logging.ERROR):
        file.look()
        file.look()
    assert file.revisions == known
    assert len(caplog.records) == (what != "gone")  # it is said once


@pytest.mark.parametrize("content", [b"", b"{}", b'{"revisions":{},"mac":"\xc3\xa4"}', b"\xff"])
def test_a_damaged_file_is_refused(path: Path, content: bytes) -> None:
    """With a sentence that says what the file is for."""
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DatabaseRefused, match="is damaged, or of another book"):
        RevisionFile(path, KEYRING).read()


@pytest.mark.usefixtures("file")
def test_the_file_of_another_book_is_refused(path: Path) -> None:
    """One with another integrity key."""
    other = Keyring({KEY.id: KEY}, Secret(b"another integrity key, of 32 byte"))
    with pytest.raises(DatabaseRefused, match="of another book"):
        RevisionFile(path, other).read()
