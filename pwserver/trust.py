"""Whose files are believed, and the one place that reads or writes a private or a trusted file.

The rule: a file belongs to root or to the user who uses it, and nobody else may write to it. Nobody
else may read a private one either, except that the group of root's may, because Kubernetes and
Debian's `ssl-cert` hand secrets out so (PostgreSQL has the same rule). What is looked at is the
file that was opened, because somebody may change what is at the path meanwhile. A link at the path
must belong to one of the two as well: otherwise somebody else chooses among their files.

Root's commands beside a service of another user are done with that user's rights (`rights_of`): so
what they make is that user's, and no link of that user leads root anywhere.
"""

import contextlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pwserver.config import is_credential
from pwserver.errors import PwserverError

ROOT = 0

FileName = str | os.PathLike[str]


def read(  # noqa: PLR0913 - a file, how it is spoken of, and what is asked of it
    file: FileName,
    what: str,
    refusal: type[PwserverError],
    *,
    bytes_max: int,
    private: bool = False,
    missing: str = "",
) -> bytes:
    """Return what stands in a file that whoever runs this may believe.

    Raises `refusal` with a sentence that begins with `what` and the file's name, and says what to
    do; or with `missing`, if that is given, where there is no file.
    """
    name = f"{what} {os.fspath(file)}".lstrip()
    try:
        content, reason = _content_or_reason(file, bytes_max, private)
    except FileNotFoundError:
        content, reason = b"", "cannot be read: No such file or directory."
        if os.path.islink(file):
            reason = f"is a link to {os.readlink(file)}, and there is no such file."
        elif missing:
            raise refusal(missing) from None
    except OSError as error:
        content, reason = b"", f"cannot be read: {error.strerror}."
    except ValueError:  # a NUL character, or one that no file system has
        raise refusal(f"{what} holds a character that no file name has.") from None
    if reason:
        raise refusal(f"{name} {reason}")
    return content


def _content_or_reason(file: FileName, bytes_max: int, private: bool) -> tuple[bytes, str | None]:
    user = os.geteuid()
    with roots_rights():
        if reason := not_regular(os.stat(file)):  # because opening a device may do something
            return b"", reason
        # Not waiting: it may have become a pipe meanwhile, and a pipe has no end.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with open(os.open(file, flags), "rb") as opened:
            if reason := distrust(os.fstat(opened.fileno()), file, user, private=private):
                return b"", reason
            content = opened.read(bytes_max + 1)
    if len(content) > bytes_max:
        return b"", f"is too long: it has more than {bytes_max:,} bytes."
    return content, None


@contextlib.contextmanager
def written(path: Path, content: bytes, before: os.stat_result | None = None) -> Iterator[str]:
    """Yield the name of a new, private, synced file beside `path`; delete it afterwards.

    The caller gives it the name `path`. If root makes it, it gets the owner and group of the file
    `before`. Raises OSError.
    """
    descriptor, unfinished = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if before is not None and os.geteuid() == ROOT:
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        yield unfinished
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(unfinished)


def replace(path: Path, content: bytes, before: os.stat_result | None = None) -> None:
    """Make a private file, or replace it atomically, even if the power fails; raise OSError."""
    with written(path, content, before) as unfinished:
        os.rename(unfinished, path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make it durable that a file has its name."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def distrust(
    found: os.stat_result, file: FileName, user: int, *, private: bool = False
) -> str | None:
    """Return why `user` does not believe a file, as the end of a sentence; None who does."""
    if reason := not_regular(found):
        return reason
    link = os.lstat(file)
    if found.st_uid not in (ROOT, user):
        return f"belongs to {name_of(found.st_uid)}; it must belong to {_who(user)}."
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (ROOT, user):
        return f"is a link of {name_of(link.st_uid)}; it must belong to {_who(user)}."
    mode = stat.S_IMODE(found.st_mode)
    if not private:
        if mode & 0o022:
            return f"may be changed by others (mode {mode:03o}). Run: chmod go-w {os.fspath(file)}"
    elif mode & (0o037 if found.st_uid == ROOT != user else 0o077) and not is_credential(file):
        return f"may be used by others (mode {mode:03o}). Run: chmod 600 {os.fspath(file)}"
    return None


def not_regular(found: os.stat_result) -> str | None:
    """Return what is wrong with something that is no regular file, as the end of a sentence."""
    if stat.S_ISDIR(found.st_mode):
        return "is a directory, and not a file."
    return None if stat.S_ISREG(found.st_mode) else "is not a regular file."


def is_there(file: FileName) -> bool:
    """Tell whether something is at a path, be it a link that leads nowhere."""
    with roots_rights():
        return os.path.lexists(file)


def name_of(user: int) -> str:
    """Return how a person calls a user."""
    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"


def _who(user: int) -> str:
    return "root" if user == ROOT else f"root or to {name_of(user)}"


def rights_of(file: FileName) -> contextlib.AbstractContextManager[None]:
    """Do what follows with the rights of a file's owner, where root runs this.

    For anybody else nothing changes. Raises OSError where there is no such file.
    """
    with roots_rights():
        found = os.stat(file)
    return _acting_as(found.st_uid, found.st_gid)


def roots_rights() -> contextlib.AbstractContextManager[None]:
    """Give root, who acts as somebody else, its own rights: a key file may be for root alone."""
    return _acting_as(ROOT, ROOT)


@contextlib.contextmanager
def _acting_as(user: int, group: int) -> Iterator[None]:
    if os.getuid() != ROOT or os.geteuid() == user:
        yield
        return
    before = os.geteuid(), os.getegid(), os.getgroups()
    _become(user, group, _groups_of(user, group))
    try:
        yield
    finally:
        _become(*before)


def _become(user: int, group: int, groups: list[int]) -> None:
    os.seteuid(ROOT)  # nobody else may choose
    os.setgroups(groups)
    os.setegid(group)
    os.seteuid(user)


def _groups_of(user: int, group: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    except KeyError:
        return [group]
