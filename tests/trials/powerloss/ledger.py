"""What clients asked for, in order, and what a book must hold once it was acknowledged.

Every password is another one, so a password that is found says which save it came from. A name is
used by one client alone, so what was asked for it has an order, and each request leads from one
state to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Message = dict[str, Any]

VERSIONS_KEPT = 10
"""Of each user beside the newest; the service's default."""


class User(NamedTuple):
    """A named user: what a book has of it."""

    versions: tuple[tuple[int, str], ...]  # numbers and passwords, the newest first
    labels: tuple[str, ...]


class Saved(NamedTuple):
    """A user without a name is there, with this password."""

    password: str


class Became(NamedTuple):
    """A name has this user now, or none."""

    name: str
    user: User | None


Effect = Saved | Became | None


class Request(NamedTuple):
    """What was asked, the `message` of the one reply that it may have, and what that promises."""

    message: Message
    reply: str
    effect: Effect


class Command(NamedTuple):
    """What an administrator did, and what that promises of the database and the key file."""

    words: tuple[str, ...]
    holds: Callable[[Keys], bool]


class Keys(NamedTuple):
    """The keys of a book: those in the key file, the one that seals, and those that are used."""

    in_file: frozenset[int]
    in_database: frozenset[int]
    sealing: int
    used: frozenset[int]


@dataclass
class Ledger:
    """What was asked on each connection, told by its port, and of the administrator."""

    requests: dict[int, list[Request]] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    applications: frozenset[str] = frozenset()
    """Those that were registered before."""

    _users: dict[str, User] = field(default_factory=dict)
    _passwords: int = 0

    def begin(self, port: int, *, is_authenticated: bool) -> None:
        """Note a new connection, and that it has shown a token and was answered."""
        shown = Request({"message": "authenticate"}, "Authenticated!", None)
        self.requests[port] = [shown] if is_authenticated else []

    def new_password(self, length: int) -> str:
        """Return a password that was never used."""
        self._passwords += 1
        return f"{self._passwords}-".ljust(length, "x")

    def note(self, port: int, request: Request) -> Message:
        """Note a request that is about to be sent; return its message."""
        self.requests[port].append(request)
        return request.message

    # --- Requests. ---

    def save(self, length: int) -> Request:
        """Return a save without a name."""
        password = self.new_password(length)
        message = {"message": "save_password", "password": password}
        return Request(message, "Password saved!", Saved(password))

    def save_named(self, name: str, length: int) -> Request:
        """Return a save under a name, which makes another version if there is one."""
        password, before = self.new_password(length), self._users.get(name, User((), ()))
        version = before.versions[0][0] + 1 if before.versions else 1
        versions = ((version, password), *before.versions)[: VERSIONS_KEPT + 1]
        message = {"message": "save_password", "password": password, "username": name}
        return Request(
            message, "Password saved!", self._became(name, before._replace(versions=versions))
        )

    def label(self, name: str, label: str) -> Request:
        """Return a request to label a user that is there."""
        message = {"message": "label_user", "username": name, "labels": [label]}
        after = self._users[name]._replace(labels=(label,))
        return Request(message, "User labelled!", self._became(name, after))

    def delete(self, name: str) -> Request:
        """Return a request to delete a user that is there."""
        message = {"message": "delete_user", "username": name}
        return Request(message, "User deleted!", self._became(name, None))

    def get(self, name: str) -> Request:
        """Return a request for the password of a user that is there, which is put on record."""
        message = {"message": "get_password", "username": name}
        return Request(message, "return_password", None)

    def knows(self, name: str) -> bool:
        """Tell whether there is a user of that name when all is done that was asked."""
        return name in self._users

    def _became(self, name: str, user: User | None) -> Became:
        if user is None:
            del self._users[name]
        else:
            self._users[name] = user
        return Became(name, user)
