"""The two open files of the audit record, and the lock between the processes that write to them.

Knows nothing of their content. Others may move, replace, empty or remove both files at any time.
Failures raise an OSError whose `filename` and `strerror` say what is wrong.
"""

import contextlib
import errno
import fcntl
import os
import time

from pwserver import trust

_LOOK_S = 0.01
"""How long a process may still write to a file that was moved away. logrotate reads a file only
after it has moved all of them, which is later. Checking at every write would take longer than the
write itself: a file whose times were read gets new ones at its next write, which dirties its inode
too."""

_YIELDS = 20
"""How often a process that waits for the lock yields before it sleeps between tries."""

_PAUSE_S = 0.0002

_NOT_OPEN = -1


class HeadFile:
    """A small file that is read and written as a whole, under its lock.

    Only its owner may use it: whoever may open it could hold the lock for ever.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = _NOT_OPEN

    def lock(self, patience_s: float) -> None:
        """Take the lock; raise TimeoutError after `patience_s`."""
        if self._descriptor == _NOT_OPEN:
            self._descriptor = open_file(self._path, private=True)
        deadline, tries = 0.0, 0
        while not self._try_lock():
            now = time.monotonic()
            deadline = deadline or now + patience_s
            if now > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock", self._path)
            tries += 1
            if tries < _YIELDS:
                os.sched_yield()
            else:
                time.sleep(_PAUSE_S)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Release the lock. Does nothing if the file was closed, which releases it too."""
        if self._descriptor != _NOT_OPEN:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_in_place(self) -> bool:
        """Tell whether the locked file is still the one at its path."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self._path), os.fstat(self._descriptor))
        return False

    def read(self, size_max: int) -> bytes:
        """Return the beginning of its content."""
        return os.pread(self._descriptor, size_max, 0)

    def write(self, content: bytes) -> None:
        """Write its content, which always has the same length."""
        os.pwrite(self._descriptor, content, 0)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._descriptor != _NOT_OPEN:
            os.close(self._descriptor)
            self._descriptor = _NOT_OPEN


class RecordFile:
    """A file to append to: the one at its path, or one that was there a moment ago."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = _NOT_OPEN
        self._device = 0
        self._look_next_s = 0.0  # when to check the path again, in time of the monotonic clock
        self.inode = 0

    def size(self) -> int:
        """Return the file's present size, which may be less than before."""
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def follow(self, *, at_once: bool = False) -> None:
        """If another file or none is at the path now, open or make that one."""
        now = time.monotonic()
        if not at_once and now < self._look_next_s:
            return
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(self.path)
            if (there.st_dev, there.st_ino) == (self._device, self.inode):
                self._look_next_s = now + _LOOK_S
                return
        descriptor = open_file(self.path, os.O_APPEND)
        self.close()
        self._descriptor = descriptor
        opened = os.fstat(descriptor)
        self._device, self.inode = opened.st_dev, opened.st_ino
        self._look_next_s = now + _LOOK_S

    def move_to(self, path: str) -> None:
        """Move the open file, which is at the path, to another one, and make a new file.

        If no file can be made, the old one goes back. Does not replace what is at the other path.
        """
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "there is such a file", path)
        os.rename(self.path, path)
        try:
            self.follow(at_once=True)
        except OSError:
            os.rename(path, self.path)
            raise

    def end(self, length_max: int) -> bytes:
        """Return its last bytes."""
        return os.pread(self._descriptor, length_max, max(0, self.size() - length_max))

    def append(self, data: bytes) -> None:
        """Append data with one write(2). After a partial write, the next one raises the reason."""
        while data:
            data = data[os.write(self._descriptor, data) :]

    def cut(self, size: int) -> None:
        """Cut the file to a size, to undo an append, if that is possible."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._descriptor != _NOT_OPEN:
            os.close(self._descriptor)
            self._descriptor, self._device, self.inode, self._look_next_s = _NOT_OPEN, 0, 0, 0.0


def open_file(path: str, flags: int = 0, *, private: bool = False) -> int:
    """Open a regular file for reading and writing; if there is none, make a private one.

    Refuses a symbolic link, because it could lead anywhere, another user's file, and one that
    others may use if it must be `private`.
    """
    flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a link, which is not followed", path)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # another process was faster
            descriptor = os.open(path, flags)
    try:
        if reason := trust.distrust(os.fstat(descriptor), path, os.geteuid(), private=private):
            raise OSError(errno.EPERM, f"it {reason.removesuffix('.')}", path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
