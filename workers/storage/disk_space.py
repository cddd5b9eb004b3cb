"""Whether there is room for more on a disk. Knows nothing of what is to be written there."""

import errno
import os
from pathlib import Path

_ROOM_BYTES = 64 * 1024
"""What must fit on the disk: a few saves, with what they write beside the passwords."""


def why_no_room(folder: Path) -> str | None:
    """Return why the disk, or a quota, has no room for more; None where it has.

    What cannot be tried, as in a folder where this user makes no files, is not said to be full.
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
