"""The two files of the audit record as a process holds them open, and the lock between processes.

Knows nothing of what is in them. Both may be moved, replaced, emptied or removed by others at any
time; where something cannot be done it is an OSError, whose `filename` and `strerror` say what.
"""

import contextlib
import errno
import fcntl
import os
import time

from pwserver import trust

_LOOK_S = 0.01
"""How long a file that was moved away may still be written to. logrotate, which goes on only when
all is moved, reads it later. To look each time would take longer than to write: a file whose times
are asked for gets new ones with the next write, which the kernel then has to note elsewhere too."""

_YIELDS = 20
"""How often other processes are let run for the lock before this one sleeps for it."""

_PAUSE_S = 0.0002

_NOT_OPEN = -1


class HeadFile:
    """A small file that is read and written as a whole, by who has its lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = _NOT_OPEN

    def lock(self, patience_s: float) -> None:
        """Wait for the lock; raise TimeoutError where it is not to be had for so long."""
        if self._descriptor == _NOT_OPEN:
            self._descriptor = open_file(self._path)
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
        """Let others go on. Nothing happens where the file was closed, which unlocks it too."""
        if self._descriptor != _NOT_OPEN:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_in_place(self) -> bool:
        """Tell whether the file that is locked is still the one at its path."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self._path), os.fstat(self._descriptor))
        return False

    def read(self, size_max: int) -> bytes:
        """Return the beginning of its content."""
        return os.pread(self._descriptor, size_max, 0)

    def write(self, content: bytes) -> None:
        """Write its content, which is always as long."""
        os.pwrite(self._descriptor, content, 0)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._descriptor != _NOT_OPEN:
            os.close(self._descriptor)
            self._descriptor = _NOT_OPEN


class RecordFile:
    """A file that is appended to, always the one at its path or one that was there a moment ago."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = _NOT_OPEN
        self._device = 0
        self._look_next_s = 0.0  # not before, by the monotonic clock
        self.inode = 0

    def size(self) -> int:
        """Return how long it is now, which may be shorter than it was."""
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def follow(self, *, at_once: bool = False) -> None:
        """Open the file at the path, made again if need be, where that is another one by now."""
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

    def end(self, length_max: int) -> bytes:
        """Return its last bytes."""
        return os.pread(self._descriptor, length_max, max(0, self.size() - length_max))

    def append(self, data: bytes) -> None:
        """Append data with one call. Where that writes a part of it, the next call says why."""
        while data:
            data = data[os.write(self._descriptor, data) :]

    def cut(self, size: int) -> None:
        """Take back what was appended, as far as that is possible."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close it, if it is open."""
        if self._descriptor != _NOT_OPEN:
            os.close(self._descriptor)
            self._descriptor, self._device, self.inode, self._look_next_s = _NOT_OPEN, 0, 0, 0.0


def open_file(path: str, flags: int = 0) -> int:
    """Open a regular file to read and write, made again, for nobody else, where there is none.

    A link is not followed, because it could lead anywhere, and another user's file not believed.
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
        if reason := trust.distrust(os.fstat(descriptor), path, os.geteuid()):
            raise OSError(errno.EPERM, f"it {reason.removesuffix('.')}", path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
