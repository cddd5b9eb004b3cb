"""Tests whether a disk has room for more. Knows nothing of what is written there."""

import errno
import os
from pathlib import Path

_ROOM_BYTES = 64 * 1024
"""The room that must be free: enough for a few saves with all that they write."""


def is_below(folder: Path, reserve_bytes: int) -> bool:
    """Tell whether a disk has less room left for this user; False if nobody can tell."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < reserve_bytes


def why_no_room(folder: Path) -> str | None:
    """Return why the disk or a quota has no room for more, or None.

    Also None if it cannot be tested, for example in a folder where this user may make no files.
    """
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _ROOM_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return os.strerror(error.errno)
    return None
