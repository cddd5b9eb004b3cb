"""Whether the files of an open database are still the ones at their paths.

Knows nothing of what is in them. Somebody may remove them while the service runs; the writer must
notice before it answers, so it asks after every commit, and asking must cost next to nothing.

Looking at the write-ahead log itself costs more than it seems to. Since Linux 6.13 a file whose
times were read gets a new time with its next write, to the nanosecond; that changes its inode, and
the next `fdatasync` has one more block to write: 145 microseconds instead of 100. So the folder is
looked at instead, whose time changes when a name in it is made, removed or replaced, and the files
only where it has changed.
"""

import os
import time
from pathlib import Path

_SETTLED_NS = 20_000_000
"""Before Linux 6.13 the time of a folder has the precision of a timer tick, which is 10 ms at the
most: two changes in one tick cannot be told apart, so a time this young proves nothing."""


class OpenFiles:
    """The files that were at the paths of a database and its log when this was made."""

    def __init__(self, path: Path, log_path: Path) -> None:
        self._path = path
        self._log_path = log_path
        self._database = _identity(path)
        self._log = _identity(log_path)
        # A path that is a symbolic link stands in one folder, and what it means in another.
        self._folders = {Path(os.path.abspath(path)).parent, Path(os.path.realpath(path)).parent}
        self._settled: set[_FolderState] | None = None

    @property
    def database_removed(self) -> bool:
        """Whether the file at the path is no longer the one that is open."""
        return _identity(self._path) != self._database

    @property
    def log_removed(self) -> bool:
        """Whether the write-ahead log was taken away from under the database."""
        return _identity(self._log_path) != self._log

    def undisturbed(self) -> bool:
        """Tell whether certainly nothing was removed; where that is not certain, look at the files.

        Does not see a file system that is mounted on one of the files.
        """
        try:
            folders = {_state(folder) for folder in self._folders}
        except FileNotFoundError:
            return False
        if folders == self._settled:
            return True
        if self.database_removed or self.log_removed:
            return False
        # The files were looked at after the folders: what is changed from here on gets a later
        # time, if only the last one is long enough ago.
        now_ns = time.time_ns()
        if all(now_ns - modified_ns > _SETTLED_NS for *_, modified_ns in folders):
            self._settled = folders
        return True


_FolderState = tuple[int, int, int]


def _state(folder: Path) -> _FolderState:
    found = os.stat(folder)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
