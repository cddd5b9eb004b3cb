"""Whether somebody took the files of an open database away: noticed, and cheaply."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.storage.sqlite.open_files import OpenFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a database and its log in it."""
    (tmp_path / "book.db").touch()
    (tmp_path / "book.db-wal").touch()
    return tmp_path


def opened(folder: Path) -> OpenFiles:
    return OpenFiles(folder / "book.db", folder / "book.db-wal")


def settle(files: OpenFiles) -> None:
    """Ask until the answer rests on the folder alone."""
    while not (files.undisturbed() and files._settled is not None):
        time.sleep(0.005)


def replace(folder: Path) -> None:
    (folder / "new").touch()
    (folder / "new").rename(folder / "book.db")


CHANGES: dict[str, Callable[[Path], object]] = {
    "the database is removed": lambda folder: (folder / "book.db").unlink(),
    "the log is removed": lambda folder: (folder / "book.db-wal").unlink(),
    "the database is replaced": replace,
    "the database is moved away": lambda folder: (folder / "book.db").rename(folder / "old"),
    "the folder is moved away": lambda folder: folder.rename(
        folder.with_name(f"{folder.name}-moved")
    ),
}


@pytest.mark.parametrize("rested", [True, False], ids=["rested", "at once"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_taken_away_is_noticed(
    folder: Path, change: Callable[[Path], object], rested: bool
) -> None:
    """However it goes, and whether the folder had been at rest or not, the next question tells."""
    files = opened(folder)
    if rested:
        settle(files)
    assert files.undisturbed()
    change(folder)
    assert not files.undisturbed()
    assert files.database_removed or files.log_removed


def test_other_files_come_and_go(folder: Path) -> None:
    """A folder in which something else changes is no reason for anything."""
    files = opened(folder)
    settle(files)
    for number in range(20):
        (folder / f"backup-{number}").touch()
        assert files.undisturbed()
    (folder / "book.db").unlink()
    assert not files.undisturbed()


def test_a_database_behind_a_link_is_watched_at_both_ends(folder: Path, tmp_path: Path) -> None:
    """The link may be removed, and the file it means as well."""
    away = tmp_path / "away"
    away.mkdir()
    (folder / "book.db").rename(away / "book.db")
    (folder / "book.db").symlink_to(away / "book.db")
    files = opened(folder)
    settle(files)
    (away / "book.db").unlink()
    assert not files.undisturbed()


def test_a_folder_at_rest_is_all_that_is_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log itself is not: reading its times would make the next sync write one block more."""
    files = opened(folder)
    settle(files)
    looked_at: list[Path] = []
    stat = os.stat

    def look_at(path: Path) -> os.stat_result:
        looked_at.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", look_at)
    assert files.undisturbed()
    assert looked_at == [folder]
