"""The requests that change what is in the book: how each is planned, and answered.

A plan is made on what a worker reads: which user a name is, and which version comes next, because
the password is sealed for exactly that place. `lines` sees to the order, and the writer to what
other workers have done meanwhile.
"""

import secrets
import string

import msgspec
from msgspec import UNSET, Raw

from pwserver import protocol
from pwserver.errors import (
    InvalidMessage,
    NotSaved,
    Refused,
    Unavailable,
    UnknownUser,
    UnknownVersion,
)
from pwserver.protocol import (
    LABEL_LENGTH_MAX,
    VERSION_MAX,
    DeleteUser,
    GeneratePassword,
    LabelUser,
    RestorePassword,
    SavePassword,
)
from workers import history
from workers.batches import Outcome, Waiter, not_saved
from workers.context import Context
from workers.history import OlderVersion
from workers.lines import Write
from workers.names import generated_id, normal, refuse_invisible
from workers.reading import Found
from workers.writing import DELETE, LABEL, SAVE, Operation, Result

_OVERHEAD_BYTES = 1024
"""What a request costs beside its password while it waits, near enough for a limit."""

_ALPHABET = string.ascii_letters + string.digits
"""What a password is generated of where nothing else is asked for: what every form accepts."""


class Save(Write):
    """A save with a username, with labels, or with a `request_id`."""

    def __init__(
        self,
        context: Context,
        waiter: Waiter,
        request: SavePassword | GeneratePassword | RestorePassword,
        password: str = "",
    ) -> None:
        username, request_id = request.username, request.request_id
        self._context = context
        self._book = waiter.book
        self._name = None if username is UNSET else normal(username, "username")
        self._request_id = None if request_id is UNSET else request_id
        self._labels: str | None = None
        if not isinstance(request, RestorePassword) and request.labels is not UNSET:
            self._labels = _labels(request.labels)
        self._password = password
        self._version = 0  # that it makes
        self._fingerprint = 0 if request_id is UNSET else _fingerprint(context, request)
        key = None if self._name is None else (waiter.book, self._name)
        super().__init__(waiter, key, request.id, _OVERHEAD_BYTES + len(password), context.now)

    def plan(self) -> Operation:
        """Save as a new version of the user, or as a new user where there is none of the name."""
        user = None if self._name is None else self._context.reader.find(self._book, self._name)
        if user is not None:
            return self._save_over(user)
        if self._name is not None and generated_id(self._name) is not None:
            raise UnknownUser  # such names are made by the service alone
        return self._save(self._context.ids.next(), 0, None)

    def _save_over(self, user: Found) -> Operation:
        """Return the operation that puts a version in place of a user's newest."""
        if user.version >= VERSION_MAX:
            raise Unavailable("What is stored of this user was altered; nothing is added to it.")
        newest = OlderVersion(user.version, user.key_id, user.saved_at_ms, user.sealed)
        older = history.add(user.older, newest, self._context.versions_kept)
        return self._save(user.id, user.version, older)

    def _save(self, user_id: int, replaced: int, older: bytes | None) -> Operation:
        vault, book = self._context.vault, self._book
        self._version = replaced + 1
        return (
            SAVE,
            book,
            self._name,
            user_id,
            replaced,
            vault.key_id,
            vault.seal(self._password, user_id, self._version, book),
            self._context.now_ms,
            self._labels,
            older,
            self._request_id,
            self._fingerprint,
        )

    def done(self, result: Result) -> bytes:
        """Say that it is saved, now or by an earlier request with the same `request_id`."""
        if isinstance(result, tuple):
            return self._repeated(*result)
        return self._saved()

    def _repeated(self, user_id: int, version: int, fingerprint: int) -> bytes:
        """Answer as the first time; raise `NotSaved` where that was for another request."""
        if fingerprint != self._fingerprint:
            raise NotSaved('The "request_id" belongs to an earlier request that was not the same.')
        self._version = version
        self._recall(user_id)
        return self._saved()

    def _recall(self, user_id: int) -> None:
        """Read what else the reply needs of what was saved the first time."""

    def _saved(self) -> bytes:
        if self._name is None:
            return protocol.passwords_saved([self.id])
        return protocol.encode(
            "Password saved!", self.id, username=self._name, version=self._version
        )

    def failed(self, outcome: Outcome) -> bytes:
        """Say "Not saved!", or that nobody knows."""
        return not_saved(outcome, self.id)

    def refused(self, refusal: Refused) -> bytes:
        """Say no, unless it was done before what it needs was gone."""
        if self._request_id is not None and isinstance(refusal, UnknownUser | UnknownVersion):
            try:
                earlier = self._context.reader.earlier(self._book, self._request_id)
                if earlier is not None:
                    return self._repeated(*earlier)
            except Refused as other:
                return super().refused(other)
        return super().refused(refusal)


class Generate(Save):
    """A generated password that is saved in the same step."""

    def _recall(self, user_id: int) -> None:
        user = self._context.reader.find_by_id(user_id)
        kept = user and self._context.password(user, self._version)
        if kept is None:
            raise NotSaved("It was saved before, and what was generated is not kept any more.")
        self._password = kept[0]

    def _saved(self) -> bytes:
        return protocol.encode(
            "return_generated_password",
            self.id,
            password=self._password,
            username=self._name,
            version=self._version,
        )


class Restore(Save):
    """A save of what an older version holds."""

    def __init__(self, context: Context, waiter: Waiter, request: RestorePassword) -> None:
        super().__init__(context, waiter, request)
        self._restored = request.version

    def plan(self) -> Operation:
        """Read the version, and save it anew."""
        assert self._name is not None
        user = self._context.reader.find(self._book, self._name)
        if user is None:
            raise UnknownUser
        kept = self._context.password(user, self._restored)
        if kept is None:
            raise UnknownVersion
        self._password = kept[0]
        return self._save_over(user)

    def _saved(self) -> bytes:
        return protocol.encode(
            "Password restored!", self.id, username=self._name, version=self._version
        )


class Change(Write):
    """A request that changes a user, and no password."""

    def __init__(self, context: Context, waiter: Waiter, request: LabelUser | DeleteUser) -> None:
        self._context = context
        self._name = normal(request.username, "username")
        key = (waiter.book, self._name)
        super().__init__(waiter, key, request.id, _OVERHEAD_BYTES, context.now)

    def _user_id(self) -> int:
        user = self._context.reader.find(self.waiter.book, self._name)
        if user is None:
            raise UnknownUser
        return user.id

    def failed(self, outcome: Outcome) -> bytes:
        """Say that it was not done, or that nobody knows: the reason says which."""
        return protocol.refusal(Unavailable(outcome.reason), self.id)


class Label(Change):
    """Other labels for a user."""

    def __init__(self, context: Context, waiter: Waiter, request: LabelUser) -> None:
        super().__init__(context, waiter, request)
        self._labels = _labels(request.labels)

    def plan(self) -> Operation:
        """Set the labels of the user that has the name."""
        return LABEL, self._user_id(), self._labels

    def done(self, result: Result) -> bytes:
        """Say what the labels are now."""
        labels = Raw(self._labels.encode())
        return protocol.encode("User labelled!", self.id, username=self._name, labels=labels)


class Delete(Change):
    """The end of a user and of all versions of its password."""

    def plan(self) -> Operation:
        """Delete the user that has the name."""
        return DELETE, self._user_id()

    def done(self, result: Result) -> bytes:
        """Say that it is gone."""
        return protocol.encode("User deleted!", self.id)


def _fingerprint(
    context: Context, request: SavePassword | GeneratePassword | RestorePassword
) -> int:
    """Return a fingerprint of what a request asks for, whoever asks and however often."""
    content = msgspec.structs.replace(request, id=UNSET, request_id=UNSET)
    return context.vault.fingerprint(msgspec.json.encode(content))


def generate(request: GeneratePassword) -> str:
    """Return a random password; raise `InvalidMessage` for an alphabet of one character."""
    alphabet = _ALPHABET if request.alphabet is UNSET else "".join(dict.fromkeys(request.alphabet))
    refuse_invisible(alphabet, "alphabet")
    if len(alphabet) < 2:
        raise InvalidMessage('"alphabet" holds one character only.')
    return "".join([secrets.choice(alphabet) for _ in range(request.length)])


def _labels(labels: list[str]) -> str:
    """Return labels as they are kept: a JSON list, each once, in the order given."""
    once = dict.fromkeys(normal(label, "labels", LABEL_LENGTH_MAX) for label in labels)
    return msgspec.json.encode(list(once)).decode()
