"""What clients asked for, in order, and what a book must hold once it was acknowledged.

Every password is another one, so a password that is found says which save it came from. A name is
used by one client alone, so what was asked for it has an order, and each request leads from one
state of the model (`book_model`) to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support import books_wire as wire
from tests.support.book_model import Model, User

Message = dict[str, Any]


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

    _model: Model = field(default_factory=Model)
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
        reply = self._model.save(None, password)
        return Request(wire.save(password=password), reply["message"], Saved(password))

    def save_named(self, name: str, length: int) -> Request:
        """Return a save under a name, which makes another version if there is one."""
        password = self.new_password(length)
        reply = self._model.save(name, password)
        return Request(wire.save(name, password), reply["message"], self._became(name))

    def label(self, name: str, label: str) -> Request:
        """Return a request to label a user that is there."""
        reply = self._model.label(name, [label])
        return Request(wire.label(name, label), reply["message"], self._became(name))

    def delete(self, name: str) -> Request:
        """Return a request to delete a user that is there."""
        reply = self._model.delete(name)
        return Request(wire.delete(name), reply["message"], self._became(name))

    def get(self, name: str) -> Request:
        """Return a request for the password of a user that is there, which is put on record."""
        return Request(wire.get(name), self._model.get(name, None)["message"], None)

    def knows(self, name: str) -> bool:
        """Tell whether there is a user of that name when all is done that was asked."""
        return name in self._model.users

    def _became(self, name: str) -> Became:
        user = self._model.users.get(name)
        return Became(name, user.now() if user else None)
