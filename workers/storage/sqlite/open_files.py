"""Tells whether the files of an open database are still the ones at their paths.

Knows nothing of their content. Somebody may remove them while the service runs. The writer must
notice that before it answers, so it checks after every commit, and the check must be cheap.

A `stat` of the write-ahead log is not. Since Linux 6.13 a file whose times were read gets a new
time, in nanoseconds, at its next write. That changes its inode, so the next `fdatasync` writes one
more block and takes 145 microseconds instead of 100. So this checks the folder, whose time changes
when a name in it is made, removed or replaced, and the files only if that time has changed.
"""

import os
import time
from pathlib import Path

_SETTLED_NS = 20_000_000
"""How old a folder's time must be to be trusted. Before Linux 6.13 its precision is a timer tick,
at most 10 ms, so a second change in the same tick cannot be seen."""


class OpenFiles:
    """The files at the paths of a database and its log when this object was made."""

    def __init__(self, path: Path, log_path: Path) -> None:
        self._path = path
        self._log_path = log_path
        self._database = _identity(path)
        self._log = _identity(log_path)
        # If the path is a symbolic link, the link and its target may be in different folders.
        self._folders = {Path(os.path.abspath(path)).parent, Path(os.path.realpath(path)).parent}
        self._settled: set[_FolderState] | None = None

    @property
    def database_removed(self) -> bool:
        """Whether the file at the database's path is no longer the open one."""
        return _identity(self._path) != self._database

    @property
    def log_removed(self) -> bool:
        """Whether the file at the log's path is no longer the open one."""
        return _identity(self._log_path) != self._log

    def undisturbed(self) -> bool:
        """Tell whether no file was removed: by the folders' times, or by the files if need be.

        Does not notice a file system that is mounted on one of the files.
        """
        try:
            folders = {_state(folder) for folder in self._folders}
        except FileNotFoundError:
            return False
        if folders == self._settled:
            return True
        if self.database_removed or self.log_removed:
            return False
        # The folders were looked at before the files, so any later change gives a folder a later
        # time, provided that its last time is old enough.
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
