"""The backup process: when it makes a backup, and what the scoreboard says of it."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pwserver.config import Settings
from pwserver.ipc import Scoreboard, control_channel
from tests.support.backups import Book, make_book
from tests.support.harness import eventually
from workers import backups
from workers.storage.backup_files import FAILURES, KILLED, NO_ROOM, backups_of, name_of

NUMBER = 1


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return a small book."""
    return make_book(tmp_path, 10)


@contextlib.contextmanager
def running(book: Book, board: Scoreboard, every: str, **more: int) -> Iterator[None]:
    """Run what the process does in a thread, until it is told to stop."""
    settings = Settings(
        database=str(book.path),
        backup_every=every,
        backup_dir=str(book.path.parent / "backups"),
        **more,  # type: ignore[arg-type]
    )
    ours, its = control_channel()
    start = backups.BackupsStart(NUMBER, settings, book.keyring)
    thread = threading.Thread(target=backups.make_backups, args=(its, board, start))
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join()
        its.close()


def test_a_new_service_makes_a_backup_at_once(book: Book) -> None:
    """The scoreboard has its time, its length and how long it took."""
    board = Scoreboard(NUMBER)
    with running(book, board, "1d"):
        eventually(lambda: board.backup_ms, "a backup is made")
    (made,) = backups_of(book.path, book.path.parent / "backups")
    assert board.backup_bytes == made.stat().st_size
    assert board.backup_took_ms > 0
    assert abs(board.backup_ms / 1000 - time.time()) < 120
    assert board.backup_began_ms == board.backup_failure[0] == 0


def test_a_restart_makes_none_before_its_time(book: Book) -> None:
    """The newest in the folder says when the next is due; the scoreboard has its age."""
    folder = book.path.parent / "backups"
    folder.mkdir()
    (folder / name_of(book.path, time.time() - 60)).touch()
    board = Scoreboard(NUMBER)
    with running(book, board, "1d"):
        eventually(lambda: board.backup_ms, "the newest is found")
        beats = board.beats(NUMBER)
        eventually(lambda: board.beats(NUMBER) > beats + 2, "it lives on")
    assert len(backups_of(book.path, folder)) == 1
    assert board.backup_bytes == 0


def test_a_failure_is_noted_until_one_succeeds(book: Book) -> None:
    """With its reason; nothing is left in the folder."""
    board = Scoreboard(NUMBER)
    with running(book, board, "1d", disk_reserve_mib=1_000_000):
        eventually(lambda: board.backup_failure[0], "the failure is noted")
    assert FAILURES[board.backup_failure[1]] == NO_ROOM
    assert not list((book.path.parent / "backups").iterdir())
    with running(book, board, "1d", disk_reserve_mib=0):
        eventually(lambda: board.backup_ms, "a backup is made")
    assert board.backup_failure[0] == 0


def test_a_successor_notes_that_a_backup_was_killed(book: Book) -> None:
    """And does not try again at once, because the next may be killed too."""
    board = Scoreboard(NUMBER)
    board.backup_begins()
    with running(book, board, "1d"):
        eventually(lambda: board.backup_failure[0], "the failure is noted")
        beats = board.beats(NUMBER)
        eventually(lambda: board.beats(NUMBER) > beats + 2, "it lives on")
    assert FAILURES[board.backup_failure[1]] == KILLED
    assert board.backup_ms == 0
