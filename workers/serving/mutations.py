"""The requests that change the book: how each is planned and answered.

A worker plans a change from what it reads: which user has the name, and which version comes next,
because the password is sealed for exactly that user and version. `name_queues` keeps the order, and
the writer detects what other workers have changed meanwhile.
"""

import secrets
import string
import sys

import msgspec
from msgspec import UNSET, Raw, UnsetType

from pwserver.errors import (
    InvalidMessage,
    NotSaved,
    Refused,
    Unavailable,
    UnknownUser,
    UnknownVersion,
    VersionConflict,
)
from pwserver.wire import messages
from pwserver.wire.messages import (
    LABEL_LENGTH_MAX,
    VERSION_MAX,
    DeleteUser,
    GeneratePassword,
    LabelUser,
    RestorePassword,
    SavePassword,
)
from workers.book import rows
from workers.book.models import UserRow
from workers.book.names import generated_id, generated_name, normal, refuse_invisible, refuse_token
from workers.serving.awaited import Recorded, Waiter
from workers.serving.commit_queue import Outcome, not_saved
from workers.serving.context import Context
from workers.serving.name_queues import Write
from workers.storage.answers import Steps
from workers.storage.operations import DELETE, FULL, LABEL, SAVE, Operation, Result, nonce

_OVERHEAD_BYTES = 1024
"""The approximate memory that a waiting request takes besides its password."""

_ALPHABET = string.ascii_letters + string.digits
"""The default alphabet of a generated password: characters that every form accepts."""


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
        self._book = waiter.peer.caller.book
        self._users_max = waiter.peer.caller.users_max
        self._name = None if username is UNSET else normal(username, "username")
        self._request_id: str | None = None
        if request_id is not UNSET:
            refuse_token(request_id, "request_id")
            self._request_id = request_id
        self._labels: str | None = None
        self._if_version: int | UnsetType = UNSET
        if not isinstance(request, RestorePassword):
            self._labels = None if request.labels is UNSET else _labels(request.labels)
            self._if_version = request.if_version
        self._password = password
        self._version = 0  # the version that this save makes
        self._content = b"" if request_id is UNSET else _content(request)
        if self._if_version is not UNSET and self._name is None:
            raise InvalidMessage('"username" is missing: "if_version" is of a user\'s password.')
        key = None if self._name is None else (self._book, self._name)
        size = _OVERHEAD_BYTES + sys.getsizeof(password)
        super().__init__(waiter, key, request.id, size, context.now)

    def plan(self) -> Steps[Operation]:
        """Save as a new version of the user that has the name, or as a new user."""
        self._refuse_without_room()
        user: UserRow | None = None
        if self._name is not None:
            user = yield self._context.reader.find(self._book, self._name)
        newest = 0 if user is None else user.version
        if self._if_version not in (UNSET, newest):
            raise _conflict(newest)
        if user is not None:
            if self._context.lacks_key_of(user):
                yield from self._context.refreshed()
            return self._save_over(user)
        if self._name is not None and generated_id(self._name) is not None:
            raise UnknownUser  # only the service makes such names
        user_id, now_ms = self._context.ids.next(), self._context.now_ms
        new = UserRow(user_id, 1, 0, b"", now_ms, self._book, None, self._name, self._labels)
        return self._save(new, None)

    def _refuse_without_room(self) -> None:
        """Raise `NotSaved` if the disk has less room than saves must leave free."""
        if (why := self._context.why_no_room(self.waiter.peer.caller)) is not None:
            raise NotSaved(why)

    def _save_over(self, user: UserRow) -> Operation:
        """Return the operation that replaces a user's newest version."""
        if user.version >= VERSION_MAX:
            raise Unavailable("What is stored of this user was altered; nothing is added to it.")
        vault, kept = self._context.vault, self._context.versions_kept
        version = user._replace(
            version=user.version + 1,
            saved_at_ms=self._context.now_ms,
            older=rows.older_with_newest(vault, user, kept),
            labels=user.labels if self._labels is None else self._labels,
        )
        return self._save(version, nonce(user.sealed))

    def _save(self, unsealed: UserRow, replaced: bytes | None) -> Operation:
        user = rows.seal(self._context.vault, self._password, unsealed)
        self._version = user.version
        return (
            SAVE,
            user.key_id,
            user.book,
            user.username,
            user.id,
            replaced,
            user.version,
            user.sealed,
            user.saved_at_ms,
            user.labels,
            user.older,
            self._request_id,
            0 if self._request_id is None else self._fingerprint(user.id, user.version),
            self._users_max,
        )

    def _fingerprint(self, user_id: int, version: int) -> int:
        """Return the keyed hash that ties the request to what it made.

        So a row of `request` that somebody without the key has altered repeats no reply.
        """
        made = b"%d %d %d " % (self._book, user_id, version)
        return self._context.vault.fingerprint(made + self._content)

    def done(self, result: Result) -> Steps[bytes]:
        """Reply that it is saved, now or by an earlier request with the same `request_id`."""
        if isinstance(result, tuple):
            return (yield from self._repeated(*result))
        if result is FULL:
            raise NotSaved(self._why_full())
        return self._saved()

    def answer(self, reply: bytes) -> None:
        """Set the reply, and forget the password and what else may be long."""
        super().answer(reply)
        self._password, self._content, self._labels = "", b"", None

    def _why_full(self) -> str:
        if self.waiter.peer.caller.application is None:
            return (
                f"The common book has {self._users_max} users; clients without a token may make "
                "no more."
            )
        return f"The application has {self._users_max} users, as many as it may have."

    def _repeated(self, user_id: int, version: int, fingerprint: int) -> Steps[bytes]:
        """Give the first request's reply again; raise `NotSaved` if the requests differ."""
        if fingerprint != self._fingerprint(user_id, version):
            raise NotSaved('The "request_id" belongs to an earlier request that was not the same.')
        self._version = version
        yield from self._recall(user_id)
        return self._saved()

    def _recall(self, user_id: int) -> Steps[None]:
        """Read what else the reply needs about the first request's save."""
        yield from ()

    def _saved(self) -> bytes:
        if self._name is None:
            return messages.passwords_saved([self.id])
        return messages.encode(
            "Password saved!", self.id, username=self._name, version=self._version
        )

    def failed(self, outcome: Outcome) -> bytes:
        """Reply "Not saved!", or that the outcome is unknown."""
        return not_saved(outcome, self.id)

    def refused(self, refusal: Refused) -> Steps[bytes]:
        """Reply with the refusal, unless an earlier request with the same id was done."""
        if self._request_id is not None and isinstance(
            refusal, UnknownUser | UnknownVersion | VersionConflict | NotSaved
        ):
            try:
                earlier = yield self._context.reader.earlier(self._book, self._request_id)
                if earlier is not None:
                    return (yield from self._repeated(*earlier))
            except Refused as other:
                refusal = other
        return (yield from super().refused(refusal))


class Generate(Save):
    """A generated password that is saved in the same step."""

    _recalled = False

    def _recall(self, user_id: int) -> Steps[None]:
        """Read the password that the first request generated, as a `get_password` would."""
        user: UserRow | None = yield self._context.reader.find_by_id(user_id)
        kept = None
        if user is not None and (user.book, _name(user)) == (self._book, self._name):
            if self._context.lacks_key_of(user):
                yield from self._context.refreshed()
            kept = self._context.password(user, self._version)
        if kept is None:
            raise NotSaved("It was saved before, and what was generated is not kept any more.")
        self._context.note(self.waiter.peer, "get", self._name, "ok")
        self._password = kept[0]
        self._recalled = True

    def _saved(self) -> bytes:
        reply = messages.encode(
            "return_generated_password",
            self.id,
            password=self._password,
            username=self._name,
            version=self._version,
        )
        return Recorded(reply, self.id) if self._recalled else reply


class Restore(Save):
    """A save of the password of an older version."""

    recorded_first = True

    def __init__(self, context: Context, waiter: Waiter, request: RestorePassword) -> None:
        super().__init__(context, waiter, request)
        self._restored = request.version

    def plan(self) -> Steps[Operation]:
        """Read the older version and save its password, sealed again, as the newest."""
        self._refuse_without_room()
        assert self._name is not None
        user: UserRow | None = yield self._context.reader.find(self._book, self._name)
        if user is None:
            raise UnknownUser
        if self._context.lacks_key_of(user):
            yield from self._context.refreshed()
        kept = self._context.password(user, self._restored)
        if kept is None:
            raise UnknownVersion
        self._password = kept[0]
        return self._save_over(user)

    def _saved(self) -> bytes:
        return messages.encode(
            "Password restored!", self.id, username=self._name, version=self._version
        )

    def record(self, outcome: str) -> None:
        """Record that an older password is the newest again."""
        self._context.note(self.waiter.peer, "restore", self._name, outcome)


class Change(Write):
    """A request that changes a user but saves no password."""

    def __init__(self, context: Context, waiter: Waiter, request: LabelUser | DeleteUser) -> None:
        self._context = context
        self._name = normal(request.username, "username")
        self._book = waiter.peer.caller.book
        key = (self._book, self._name)
        super().__init__(waiter, key, request.id, _OVERHEAD_BYTES, context.now)

    def _user(self) -> Steps[UserRow]:
        user: UserRow | None = yield self._context.reader.find(self._book, self._name)
        if user is None:
            raise UnknownUser
        return user

    def failed(self, outcome: Outcome) -> bytes:
        """Reply that it was not done, or that the outcome is unknown; the reason says which."""
        return messages.refusal(Unavailable(outcome.reason), self.id)


class Label(Change):
    """A change of a user's labels."""

    def __init__(self, context: Context, waiter: Waiter, request: LabelUser) -> None:
        super().__init__(context, waiter, request)
        self._labels = _labels(request.labels)

    def plan(self) -> Steps[Operation]:
        """Set the labels of the user that has the name, and seal its row again."""
        user = yield from self._user()
        if self._context.lacks_key_of(user):
            yield from self._context.refreshed()
        resealed = rows.reseal(self._context.vault, user, self._labels)
        replaced = nonce(user.sealed)
        return (
            LABEL,
            resealed.key_id,
            user.id,
            replaced,
            resealed.sealed,
            resealed.labels,
            resealed.older,
        )

    def done(self, result: Result) -> Steps[bytes]:
        """Reply with the new labels."""
        yield from ()
        labels = Raw(self._labels.encode())
        return messages.encode("User labelled!", self.id, username=self._name, labels=labels)


class Delete(Change):
    """A deletion of a user with all versions of its password."""

    recorded_first = True

    def plan(self) -> Steps[Operation]:
        """Delete the user that has the name."""
        user = yield from self._user()
        return DELETE, None, user.id

    def done(self, result: Result) -> Steps[bytes]:
        """Reply that the user is deleted."""
        yield from ()
        return messages.encode("User deleted!", self.id)

    def record(self, outcome: str) -> None:
        """Record that a user was deleted."""
        self._context.note(self.waiter.peer, "delete", self._name, outcome)


def _conflict(newest: int) -> VersionConflict:
    if not newest:
        return VersionConflict("There is no such user.", 0)
    return VersionConflict(f"The newest version is {newest}.", newest)


def _name(user: UserRow) -> str:
    return user.username or generated_name(user.id)


def _content(request: SavePassword | GeneratePassword | RestorePassword) -> bytes:
    """Return all of a request but its `id`, which a request that is sent again may change."""
    return msgspec.json.encode(msgspec.structs.replace(request, id=UNSET))


def generate(request: GeneratePassword) -> str:
    """Return a random password; raise `InvalidMessage` for an alphabet of one character."""
    alphabet = _ALPHABET if request.alphabet is UNSET else "".join(dict.fromkeys(request.alphabet))
    refuse_invisible(alphabet, "alphabet")
    if len(alphabet) < 2:
        raise InvalidMessage('"alphabet" holds one character only.')
    return "".join([secrets.choice(alphabet) for _ in range(request.length)])


def _labels(labels: list[str]) -> str:
    """Return labels as they are stored: a JSON list without duplicates, in the order given."""
    once = dict.fromkeys(normal(label, "labels", LABEL_LENGTH_MAX) for label in labels)
    return msgspec.json.encode(list(once)).decode()
