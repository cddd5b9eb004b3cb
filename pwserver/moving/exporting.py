"""The export: writes the newest passwords of a book into a new file, in the clear.

A format is a row of a table: how a user becomes a line. All but JSON lines are CSV. Other managers
have a title and a login; so a name such as `github.com/alice` is split at its last slash, which the
import puts between the two.
"""

import contextlib
import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import msgspec

from pwserver import trust
from pwserver.client.results import Password, User
from pwserver.errors import ConfigError, StorageFailed, UnknownUser
from pwserver.moving.books import CHUNK, Book

FormatName = Literal["jsonl", "bitwarden", "keepassxc"]

Cells = Callable[[User, str], list[str]]


class _Csv(NamedTuple):
    """A CSV format: its header, and the cells of a user with a password."""

    header: str
    cells: Cells


def _of_bitwarden(user: User, password: str) -> list[str]:
    title, login = _title_and_login(user.username)
    folder = user.labels[0] if user.labels else ""
    return [folder, "", "login", title, "", "", "0", "", login, password, ""]


def _of_keepassxc(user: User, password: str) -> list[str]:
    title, login = _title_and_login(user.username)
    group = "/".join(["Root", *user.labels[:1]])
    saved = user.time_saved.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [group, title, login, password, "", "", "", "0", saved, saved]


def _title_and_login(name: str) -> tuple[str, str]:
    title, _, login = name.rpartition("/")
    return (title, login) if title and login else (name, "")


_CSV: dict[str, _Csv] = {
    "bitwarden": _Csv(
        "folder,favorite,type,name,notes,fields,reprompt,login_uri,login_username,"
        "login_password,login_totp",
        _of_bitwarden,
    ),
    "keepassxc": _Csv(
        "Group,Title,Username,Password,URL,Notes,TOTP,Icon,Last Modified,Created",
        _of_keepassxc,
    ),
}


@dataclass(slots=True)
class Exported:
    """What was exported."""

    users: int = 0
    labels_left_out: int = 0  # a CSV file has one folder for each
    refused: list[str] = field(default_factory=list)  # whose passwords were not given out


def export(
    book: Book, file: TextIO, form: FormatName, progress: Callable[[int, int], None]
) -> Exported:
    """Write all users with their newest passwords; those deleted meanwhile are left out."""
    exported = Exported()
    write = _line_writer(file) if form == "jsonl" else _row_writer(file, _CSV[form], exported)
    users = [*book.users()]
    for at in range(0, len(users), CHUNK):
        some = users[at : at + CHUNK]
        for user, found in zip(some, book.read([user.username for user in some]), strict=True):
            if isinstance(found, Password):
                write(user, found)
                exported.users += 1
            elif not isinstance(found, UnknownUser):
                exported.refused.append(user.username)
        progress(at + len(some), len(users))
    return exported


def _line_writer(file: TextIO) -> Callable[[User, Password], None]:
    encode = msgspec.json.Encoder().encode

    def write(user: User, found: Password) -> None:
        record: dict[str, Any] = {
            "username": user.username,
            "password": found.password,
            "labels": user.labels,
            "version": found.version,
            "time_saved": found.time_saved,
        }
        file.write(f"{encode(record).decode()}\n")

    return write


def _row_writer(file: TextIO, form: _Csv, exported: Exported) -> Callable[[User, Password], None]:
    rows = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writerow(form.header.split(","))

    def write(user: User, found: Password) -> None:
        rows.writerow(form.cells(user, found.password))
        exported.labels_left_out += max(0, len(user.labels) - 1)

    return write


# --- The file. ---


def check_place(path: Path) -> bool:
    """Return whether there is a file at a path, which must be one that can be replaced."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be written: {_why(error)}.") from None
    if reason := trust.not_regular(found):
        raise ConfigError(f"{path} {reason}")
    return True


@contextlib.contextmanager
def new_file(path: Path, *, replaces: bool) -> Iterator[TextIO]:
    """Yield a file for its owner only, which gets its name when all of it is on the disk.

    Without `replaces` no file that has the name by then is touched. Raises `ConfigError` or
    `StorageFailed`; nothing is left.
    """
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {_why(error)}.") from None
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if not replaces:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.replace(unfinished, path)
    except FileExistsError:
        raise ConfigError(f"{path} is there now, and was not when you were asked.") from None
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {_why(error)}. Nothing is left.") from None
    finally:
        with contextlib.suppress(OSError):  # it was renamed
            os.unlink(unfinished)


def _why(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or "its name holds a character that no file name has"
