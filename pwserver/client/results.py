"""What the client's methods return: frozen dataclasses, made from the service's replies.

The fields have the names and types of the replies' fields; `commands` fills them in. No repr shows
a password, so that none gets into a log by accident. Times are in UTC.
"""

from dataclasses import dataclass, field
from datetime import datetime

from pwserver.wire.messages import SavedVersion, User

__all__ = [
    "Generated",
    "Page",
    "Password",
    "Saved",
    "SavedVersion",
    "Status",
    "Strength",
    "User",
]


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a password was saved; both are None for one that was saved without a user's name."""

    username: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Password:
    """A password as it was saved, and when."""

    username: str
    password: str = field(repr=False)
    version: int
    time_saved: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the users; pass `after` to `list_users` for the next page. None: the last page."""

    users: list[User]
    after: str | None


@dataclass(frozen=True, slots=True)
class Generated:
    """A new random password, and where it was saved, if so; see `Saved`."""

    password: str = field(repr=False)
    username: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a password is, from 0 (weak) to 4, and in words what makes it weak."""

    strength: int
    warning: str
    suggestions: list[str]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the service; `parts` has the version of each of its parts.

    While nothing can be saved, `write_error` says why, and `write_error_since` since when (UTC).
    `token_expires` says until when the client's own token is valid, if it expires. `backup_age_s`
    is the age of the newest backup that the service has made and verified; if backups fail,
    `backup_error` says why, and `backup_error_since` since when.
    """

    number_of_users: int
    workers: int
    uptime_s: float
    parts: dict[str, str]
    write_error: str | None = None
    write_error_since: datetime | None = None
    token_expires: datetime | None = None
    backup_age_s: float | None = None
    backup_error: str | None = None
    backup_error_since: datetime | None = None
