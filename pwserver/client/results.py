"""What the client's methods return: plain frozen data, made of the service's replies.

The fields are named and typed as those of the replies; `commands` fills them in. A password is
never part of a repr, so that none gets into a log by accident. Times are in UTC.
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
    """Where a password was saved; both are None for one that was saved without a user's name.

    Who has no token is not told the `version`: it would say whether the name was there before.
    """

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
    """Some of the users; `after` is what to ask the next page with, None at the end."""

    users: list[User]
    after: str | None


@dataclass(frozen=True, slots=True)
class Generated:
    """A new random password, and where it was saved if it was; see `Saved`."""

    password: str = field(repr=False)
    username: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a password is, from 0 to 4, and what is weak about it, in words."""

    strength: int
    warning: str
    suggestions: list[str]


@dataclass(frozen=True, slots=True)
class Status:
    """How the service is doing; `parts` says which version each of its parts has.

    While nothing can be saved, `write_error` says why and `write_error_since` since when (UTC).
    `token_expires` says until when the token of who asks is good, if it expires.
    """

    number_of_users: int
    workers: int
    uptime_s: float
    parts: dict[str, str]
    write_error: str | None = None
    write_error_since: datetime | None = None
    token_expires: datetime | None = None
