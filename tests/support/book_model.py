"""A model of the book in as few lines as possible: it gives the replies that a service must give.

It does one request after the other and knows the outcome of each. For several requests at once,
some of them never answered, there is another kind of model: `tests/trials/torture/ledger.py`.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.books_wire import DELETED, UNKNOWN_USER, UNKNOWN_VERSION, Request

VERSIONS_KEPT = 10
"""How many older versions of each user are kept: the service's default."""

NOT_SAVED = {"message": "Not saved!"}


def refused(reply: Request) -> bool:
    """Tell whether a save was refused, for any reason."""
    return bool(reply["message"] == NOT_SAVED["message"])


def composed(text: str) -> str:
    """Return a text in the form in which names compare."""
    return unicodedata.normalize("NFC", text)


class User(NamedTuple):
    """A user in a book: passwords by version, and labels."""

    versions: dict[int, str]
    labels: tuple[str, ...] = ()


@dataclass(eq=False)
class Kept:
    """A user of the model, with the last `kept` older versions."""

    kept: int
    labels: list[str] = field(default_factory=list)
    newest: int = 0
    versions: dict[int, str] = field(default_factory=dict)

    def add(self, password: str) -> int:
        """Save a version; return its number."""
        self.newest += 1
        self.versions[self.newest] = password
        self.versions.pop(self.newest - self.kept - 1, None)
        return self.newest

    def now(self) -> User:
        """Return the user as it is now."""
        return User(dict(self.versions), tuple(self.labels))


class Model:
    """The book as a dictionary. Each method returns the reply, without times."""

    def __init__(self, kept: int = VERSIONS_KEPT) -> None:
        self._kept = kept
        self.users: dict[str, Kept] = {}
        self.nameless: dict[str, Kept] = {}  # by password, because the names are not known yet
        self.requests: dict[str, tuple[Request, Request]] = {}  # by id: the request, its reply

    def once(self, request: Request, act: Callable[[], Request]) -> Request:
        """Do a request that saves, if none with its `request_id` was done before."""
        id = request.get("request_id")
        if id in self.requests:
            earlier, reply = self.requests[id]
            if request != earlier:
                return NOT_SAVED
            return reply if "password" not in reply or self.is_kept(reply) else NOT_SAVED
        reply = act()
        if id is not None and reply not in (UNKNOWN_USER, UNKNOWN_VERSION) and not refused(reply):
            self.requests[id] = request, reply
        return reply

    def is_kept(self, generated: Request) -> bool:
        """Tell whether a generated password is still in the book under its version."""
        user = self.users.get(generated["username"])
        version, password = generated["version"], generated["password"]
        return user is not None and user.versions.get(version) == password

    def save(
        self,
        name: str | None,
        password: str,
        labels: list[str] | None = None,
        if_version: int | None = None,
    ) -> Request:
        newest = self.users[name].newest if name in self.users else 0
        if if_version not in (None, newest):
            return {**NOT_SAVED, "version": newest}
        if name is None:
            user = self.nameless[password] = Kept(self._kept)
        elif name.startswith("user-0123") and name not in self.users:
            return UNKNOWN_USER
        else:
            user = self.users.setdefault(name, Kept(self._kept))
        version = user.add(password)
        if labels is not None:
            user.labels = list(dict.fromkeys(labels))
        if name is None:
            return {"message": "Password saved!"}
        return {"message": "Password saved!", "username": name, "version": version}

    def generate(self, name: str, made: str, if_version: int | None = None) -> Request:
        reply = self.save(name, made, if_version=if_version)
        if reply == UNKNOWN_USER or refused(reply):
            return reply
        return {**reply, "message": "return_generated_password", "password": made}

    def restore(self, name: str, version: int) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        if version not in user.versions:
            return UNKNOWN_VERSION
        number = user.add(user.versions[version])
        return {"message": "Password restored!", "username": name, "version": number}

    def get(self, name: str, version: int | None) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        number = version or user.newest
        if number not in user.versions:
            return UNKNOWN_VERSION
        password = user.versions[number]
        return {
            "message": "return_password",
            "username": name,
            "password": password,
            "version": number,
        }

    def history(self, name: str) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        versions = [{"version": number} for number in sorted(user.versions, reverse=True)]
        return {"message": "return_password_history", "username": name, "versions": versions}

    def label(self, name: str, labels: list[str]) -> Request:
        user = self.users.get(name)
        if user is None:
            return UNKNOWN_USER
        user.labels = list(dict.fromkeys(labels))
        return {"message": "User labelled!", "username": name, "labels": user.labels}

    def verify(self, name: str, password: str) -> Request:
        user = self.users.get(name)
        valid = user is not None and user.versions[user.newest] == password
        return {"message": "return_verify_password", "valid": valid}

    def delete(self, name: str) -> Request:
        return UNKNOWN_USER if self.users.pop(name, None) is None else DELETED

    def __len__(self) -> int:
        """Return how many users there are."""
        return len(self.users) + len(self.nameless)

    def listing(self, after: str, prefix: str, labelled: str | None, limit: int) -> Request:
        assert not self.nameless
        found = [
            {"username": name, "labels": user.labels, "version": user.newest}
            for name, user in sorted(self.users.items())
            if name > after and name.startswith(prefix)
            if labelled is None or labelled in user.labels
        ]
        return {"message": "return_users", "users": found[:limit], "more": len(found) > limit}
