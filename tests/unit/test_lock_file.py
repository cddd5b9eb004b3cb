"""A lock on a file that only its owner may open."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from pwserver.lock_file import Untrusted, lock, unlock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the lock file is to be."""
    return tmp_path / "some.lock"


def test_one_has_it_at_a_time(path: Path) -> None:
    """The second is refused, or waits until the first has unlocked it; nothing is left."""
    first = lock(path, os.geteuid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        lock(path, os.geteuid(), 0.1)
    assert time.monotonic() - began >= 0.1
    later = threading.Timer(0.1, unlock, (first, path))
    later.start()
    second = lock(path, os.geteuid(), 30)
    assert path.exists(), "the file at the path is the one that is locked"
    unlock(second, path)
    assert not path.exists()
    later.join()


def test_a_lock_that_was_left_is_nobodys(path: Path) -> None:
    """The kernel releases it with its holder, and the file is used again."""
    os.close(lock(path, os.geteuid()))
    unlock(lock(path, os.geteuid()), path)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o666])
def test_a_file_that_others_may_open_is_refused(path: Path, mode: int) -> None:
    """Whoever may open it could lock it and never unlock it."""
    path.touch()
    path.chmod(mode)
    with pytest.raises(Untrusted, match=r"may be used by others .* Run: chmod 600 "):
        lock(path, os.geteuid())


def test_what_is_no_file_is_refused(path: Path) -> None:
    """A link is not followed, and a pipe is not waited for."""
    path.symlink_to(path.with_name("target"))
    with pytest.raises(OSError, match="symbolic links"):
        lock(path, os.geteuid())
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(Untrusted, match="is not a regular file"):
        lock(path, os.geteuid())


def test_a_second_name_of_another_file_is_refused(path: Path) -> None:
    """Who locks it may empty it, or give it to the owner of the folder."""
    other = path.with_name("other")
    other.touch(0o600)
    path.hardlink_to(other)
    with pytest.raises(Untrusted, match="is another file as well"):
        lock(path, os.geteuid())


@pytest.mark.root("to give files away")
def test_another_users_file_is_refused(path: Path) -> None:
    """Its owner could lock it."""
    path.touch(0o600)
    os.chown(path, 4321, 4321)
    with pytest.raises(Untrusted, match="belongs to uid 4321"):
        lock(path, os.geteuid())
