"""A backup for which there is no room, or whose disk fails: one sentence, nothing lost or left."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pwserver.errors import ExitCode
from tests.support.backups import make_book
from tests.support.books import contents
from tests.support.harness import PATIENCE_S
from tests.support.shell import ENVIRONMENT, Shell

USERS = 30_000  # more than the small disk has room for


@pytest.mark.root("to mount a small disk")
def test_a_full_disk_takes_no_backup(tmp_path: Path, small_disk: Path) -> None:
    """It is said before it is tried, in one sentence with exit code 6; the disk is as it was."""
    book = make_book(tmp_path, USERS)
    ran = Shell(tmp_path).run("backup", str(small_disk / "copy.db"))
    assert (ran.code, ran.out) == (ExitCode.STORAGE, "")
    assert ran.err.startswith(f"pwserver: there is no room for the copy in {small_disk}: it needs ")
    assert ran.err.count("\n") == 1
    assert not list(small_disk.iterdir())
    assert book.count() == USERS


def limited() -> None:
    """Let no file become longer than 1 MiB, as a quota would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, command: str) -> None:
    """In the middle of the copy: the book is as it was, and no part of a copy is left."""
    folder = tmp_path / "book"
    folder.mkdir()
    book = make_book(folder, USERS)
    copy = tmp_path / "copy.db"
    if command == "restore":
        book.back_up(copy)
        book.save_and_close(1)
    before = contents(folder)
    ran = subprocess.run(
        [sys.executable, "-m", "pwserver", command, str(copy)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=limited,
    )
    assert (ran.returncode, ran.stdout) == (ExitCode.STORAGE, ""), ran
    assert "cannot be written: File too large. Nothing was changed.\n" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert contents(folder) == before
    assert {*tmp_path.iterdir()} == ({folder} if command == "backup" else {folder, copy})
