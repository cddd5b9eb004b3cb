"""A lock between processes: flock(2) on a file that only its owner may open.

Whoever may open a file, be it for reading, may lock it and never unlock it. So no folder and no
file that others may read is locked. The kernel releases the lock when its holder ends.
"""

import fcntl
import os
import time
from pathlib import Path

from pwserver import trust

_PAUSE_S = 0.02

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Untrusted(Exception):
    """Others may use the lock file, or it belongs to another user; the text says which."""


def lock(path: Path, user: int, wait_s: float = 0.0) -> int:
    """Lock a file, and make it first if there is none; return its descriptor.

    `user` is whose file it may be, besides root's. Raises BlockingIOError if another process has
    the lock for `wait_s`, `Untrusted`, and OSError if the file cannot be opened.
    """
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            found = os.fstat(descriptor)
            if reason := trust.distrust(found, path, user, private=True):
                raise Untrusted(reason)
            if found.st_nlink > 1:  # somebody may have made root's file known by this name
                raise Untrusted("is another file as well (a hard link). Remove it.")
            if _locked(descriptor, path, deadline):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has removed the file


def _locked(descriptor: int, path: Path, deadline: float) -> bool:
    """Lock an open file; return whether it is still the one at the path."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def unlock(descriptor: int, path: Path) -> None:
    """Remove a locked file, and release the lock."""
    try:
        os.unlink(path)
    except OSError:
        pass  # it is gone, or its folder may not be changed any more; it is unlocked all the same
    finally:
        os.close(descriptor)
