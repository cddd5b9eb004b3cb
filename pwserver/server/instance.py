"""One service to a book: the file that says which process it is, and ending that.

The file is beside the database, its name ending in `.lock`, for its owner only. The listener has a
lock on it (flock(2)) for as long as it runs, which the kernel takes back however it ends; what is
in the file only says who that is. The writer has a lock of its own on the database, which also
holds where two paths lead to one database.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
from pathlib import Path
from typing import NamedTuple, Self

from pwserver import lock_file, trust
from pwserver.errors import ConnectionFailed, DatabaseRefused, StopTimedOut, StoreError

TAKE_OVER = "1"
"""The version of the protocol by which this program is taken over (`take_over`)."""

_BYTES_MAX = 64


def lock_path(database: Path) -> Path:
    """Return the file that belongs to a database, wherever links lead to it.

    Raises `DatabaseRefused` where that is not known, because the current folder was removed.
    """
    try:
        return Path(os.path.realpath(database)).with_suffix(".lock")
    except FileNotFoundError:
        raise DatabaseRefused(
            f"{database} cannot be found: the current folder was removed."
        ) from None


class Instance:
    """This process as the one that serves a book, within a `with`.

    Raises `DatabaseRefused` where another one does, or where the file cannot be made. With a
    `descriptor` of the lock, which another process has handed over, this one shares its lock until
    `claim`.
    """

    def __init__(self, database: Path, descriptor: int | None = None) -> None:
        self._path = lock_path(database)
        self._ours = False  # and nobody else's
        if descriptor is None:
            self.descriptor = self._locked(database)
            self.claim()
        else:
            self.descriptor = descriptor

    def claim(self) -> None:
        """Say in the file that this process serves the book."""
        self._ours = True
        about = f"{os.getpid()} {_namespace()} {TAKE_OVER}\n"
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, about.encode(), 0)

    def leave(self) -> None:
        """Leave the lock to another process, which has claimed it."""
        self._ours = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file while it is locked, so that nobody else has locked it."""
        if self._ours:
            lock_file.unlock(self.descriptor, self._path)
        else:
            os.close(self.descriptor)

    def _locked(self, database: Path) -> int:
        try:
            return lock_file.lock(self._path, os.geteuid())
        except lock_file.Untrusted as reason:
            raise DatabaseRefused(f"{self._path} {reason}") from None
        except BlockingIOError:
            number = self._other()
            who = f", process {number}" if number else ""
            raise DatabaseRefused(f"{database} is in use by another pwserver{who}.") from None
        except OSError as error:
            raise DatabaseRefused(_reason(self._path, error)) from None

    def _other(self) -> int:
        """Return the process id of the one that has the lock; 0 if it has just ended."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return 0
        try:
            return _holder(descriptor).number
        finally:
            os.close(descriptor)


class Holder(NamedTuple):
    """What stands in the file: who serves the book."""

    number: int = 0  # the process id; 0: nobody
    namespace: int = 0  # of the process ids
    take_over: str = ""  # the version of the protocol of taking over that it knows


class Running:
    """The process that serves a book, within a `with`: no other can get its number meanwhile.

    Raises `ConnectionFailed` where none runs, and `StoreError` where it cannot be reached.
    """

    def __init__(self, database: Path) -> None:
        try:
            descriptor = os.open(lock_path(database), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise ConnectionFailed(f"no pwserver runs on {database}.") from None
        except OSError as error:
            raise StoreError(_reason(lock_path(database), error)) from None
        try:
            _check_trust(descriptor, database)
            self.holder = _holder(descriptor)
            seen = self.holder.number and self.holder.namespace == _namespace()
            self._handle = os.pidfd_open(self.holder.number) if seen else -1
            if seen:
                _check_user(descriptor, self.holder.number, database)
            if not _is_locked(
                descriptor
            ):  # looked at last: so the process had it when it was opened
                raise ConnectionFailed(f"no pwserver runs on {database}.")
        except ProcessLookupError:
            raise ConnectionFailed(f"no pwserver runs on {database}.") from None
        finally:
            os.close(descriptor)
        if self._handle == -1:
            raise StoreError(
                f"the pwserver on {database} runs in another container, whose processes cannot be "
                "seen from here; do it there."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def fileno(self) -> int:
        """Return a descriptor that can be read once the process has ended."""
        return self._handle

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. Raises `StoreError` if this user may not."""
        try:
            signal.pidfd_send_signal(self._handle, number)
        except PermissionError:
            raise StoreError(
                f"process {self.holder.number} belongs to another user; run this as that user, or "
                "as root."
            ) from None
        except ProcessLookupError:
            pass  # it has just ended


def stop(database: Path, timeout_s: float) -> int:
    """Ask the service of a book to stop, and wait for its end; return its process id.

    Raises `ConnectionFailed` where none runs, `StoreError` where it may not be asked, and
    `StopTimedOut` where it has not ended in time.
    """
    with Running(database) as running:
        number = running.holder.number
        running.send(signal.SIGTERM)
        if not select.select([running], [], [], timeout_s)[0]:
            raise StopTimedOut(
                f"process {number} was asked to stop, and has not ended in {timeout_s:g} s."
            )
    return number


def _check_trust(descriptor: int, database: Path) -> None:
    """Raise `StoreError` if another user than the database's may say which process to stop."""
    path, user = lock_path(database), os.geteuid()
    if user == trust.ROOT:
        with contextlib.suppress(OSError):  # with a server, there is no such file
            user = os.stat(database if database.exists() else database.absolute().parent).st_uid
    if reason := trust.distrust(os.fstat(descriptor), path, user, private=True):
        raise StoreError(f"{path} {reason}")


def _check_user(descriptor: int, process: int, database: Path) -> None:
    """Raise `StoreError` for a process of another user than the one who has written its number.

    Otherwise the user of a service could have root signal any process.
    """
    writer = os.fstat(descriptor).st_uid
    try:
        with open(f"/proc/{process}/status", "rb") as file:
            user = next(int(line.split()[1]) for line in file if line.startswith(b"Uid:"))
    except FileNotFoundError:
        raise ProcessLookupError from None
    if writer not in (trust.ROOT, user):
        raise StoreError(
            f"{lock_path(database)} names process {process}, which is not one of "
            f"{trust.name_of(writer)}."
        )


def _holder(descriptor: int) -> Holder:
    """Return who stands in the file."""
    try:
        number, namespace, *rest = os.pread(descriptor, _BYTES_MAX, 0).decode().split()
        return Holder(int(number), int(namespace), *rest[:1])
    except ValueError:
        return Holder()


def _namespace() -> int:
    """Return what tells the processes of this container from those of others."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _reason(path: Path, error: OSError) -> str:
    if error.errno == errno.EROFS:
        return f"{path} is on a file system that is mounted read-only, and is to be written to."
    return f"{path} cannot be opened: {error.strerror}."
