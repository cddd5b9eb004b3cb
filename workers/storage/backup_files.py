"""The backups that the service makes in a folder: their names, their times, and the oldest ones.

Also why a backup was not made, as numbers, because the scoreboard holds no text.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from pwserver.errors import DatabaseRefused, KeyRefused, PwserverError, StorageFailed

TIME_FORM = "%Y%m%dT%H%M%SZ"
"""How a time is written in the name of a file, in UTC."""

NO_ROOM = "There is no room for the backup, or its disk has failed."
NOT_IN_ORDER = "The database or its copy is not in order."
KEYS_WRONG = "The keys do not open the copy."
FOLDER_REFUSED = "The folder backup_dir cannot be used."
KILLED = "The process that made the backup has died."

FAILURES = ("", NO_ROOM, NOT_IN_ORDER, KEYS_WRONG, FOLDER_REFUSED, KILLED)
"""In the order of their numbers on the scoreboard. The log has the whole reason."""

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (StorageFailed, NO_ROOM),
    (KeyRefused, KEYS_WRONG),
    (DatabaseRefused, NOT_IN_ORDER),
    (PwserverError, FOLDER_REFUSED),
    (OSError, FOLDER_REFUSED),
)


def number_of(failure: Exception | str) -> int:
    """Return the number of a failure, or of the error that it was."""
    if isinstance(failure, Exception):
        failure = next(words for kind, words in _KINDS if isinstance(failure, kind))
    return FAILURES.index(failure)


def name_of(database: Path, at_s: float) -> str:
    """Return the name of a backup that is made at a time, in seconds since 1970."""
    return f"{database.stem}-{datetime.fromtimestamp(at_s, UTC):{TIME_FORM}}.db"


def unfinished_name(database: Path) -> str:
    """Return the name of a backup in a folder until it is verified."""
    return f"{database.stem}-new.db.part"


def backups_of(database: Path, folder: Path) -> list[Path]:
    """Return the backups of a database that are in a folder, the oldest first. Raises OSError."""
    form = re.compile(rf"{re.escape(database.stem)}-[0-9]{{8}}T[0-9]{{6}}Z\.db")
    return sorted(path for path in folder.iterdir() if form.fullmatch(path.name))


def time_ms(backup: Path) -> int:
    """Return when a backup was made, from its name, in milliseconds since 1970; 0 if never."""
    try:
        made = datetime.strptime(backup.stem.rpartition("-")[2], TIME_FORM)
    except ValueError:  # such as a 13th month
        return 0
    return int(made.replace(tzinfo=UTC).timestamp() * 1000)


def remove_oldest(database: Path, folder: Path, keep: int) -> list[Path]:
    """Remove the oldest backups but the newest `keep`; return those. Raises OSError."""
    removed = backups_of(database, folder)[:-keep] if keep else []
    for path in removed:
        path.unlink(missing_ok=True)
    return removed
