"""The messages of the wire protocol, and the replies: what they are called and what they hold.

Shared by the service and the client; how bytes become messages is the business of `framing`, what a
name may look like that of the book's `names`, what is said of a bad message that of
`validation_errors`. Each request is a Struct whose fields are bounded here. The basic contract's
replies are the contract's bytes.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pwserver.errors import Denied, Refused, VersionConflict

PASSWORD_LENGTH_MAX = 4096  # characters; far beyond what people or generators make
ID_LENGTH_MAX = 128  # characters, by the contract; of request ids as well
USERNAME_LENGTH_MAX = 128  # characters
LABEL_LENGTH_MAX = 64  # characters
LABELS_MAX = 16  # of one user
PAGE_USERS = 100
PAGE_USERS_MAX = 1000
GENERATED_LENGTH = 20  # characters; 119 bits with the usual alphabet
GENERATED_LENGTH_MIN = 4  # a PIN
GENERATED_LENGTH_MAX = 256
ALPHABET_LENGTH_MAX = 256  # characters
TOKEN_LENGTH_MAX = 256  # characters; a token has 52
SCRAM_LENGTH_MAX = 1024  # characters of a message of SCRAM-SHA-256
VERSION_MAX = 2**53 - 1  # the greatest whole number that every JSON library keeps

IdValue = int | Annotated[str, Meta(max_length=ID_LENGTH_MAX)]
Id = IdValue | UnsetType
Password = Annotated[str, Meta(min_length=1, max_length=PASSWORD_LENGTH_MAX)]
Username = Annotated[str, Meta(min_length=1, max_length=USERNAME_LENGTH_MAX)]
Label = Annotated[str, Meta(min_length=1, max_length=LABEL_LENGTH_MAX)]
Labels = Annotated[list[Label], Meta(max_length=LABELS_MAX)]
RequestId = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]
Version = Annotated[int, Meta(ge=1, le=VERSION_MAX)]
VersionOrNone = Annotated[int, Meta(ge=0, le=VERSION_MAX)]  # 0: there is no such user
GeneratedLength = Annotated[int, Meta(ge=GENERATED_LENGTH_MIN, le=GENERATED_LENGTH_MAX)]
Alphabet = Annotated[str, Meta(min_length=2, max_length=ALPHABET_LENGTH_MAX)]
PageLimit = Annotated[int, Meta(ge=1, le=PAGE_USERS_MAX)]
Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_LENGTH_MAX)]
Scram = Annotated[str, Meta(min_length=1, max_length=SCRAM_LENGTH_MAX)]

Right = Literal["save", "count", "get", "verify", "list", "delete"]
"""What an application may be allowed to do."""

RIGHTS: tuple[Right, ...] = get_args(Right)
_HIDDEN = frozenset({"password", "token"})

SPEAKS_TLS = "This address speaks TLS; use pwservers://."
"""The reason of the "Unavailable!" that is for a client without TLS there; nothing was done."""


class Discreet(Struct, frozen=True, gc=False):
    """A message whose repr, and whatever else prints it, hides passwords and tokens."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        fields = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [
            (name, "..." if name in _HIDDEN else value)
            for name, value in fields
            if value is not UNSET and value is not None
        ]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"


class Message(Discreet, tag_field="message", forbid_unknown_fields=True, frozen=True, gc=False):
    """A request. It has no other fields: `validation_errors` is for messages that have."""


class SavePassword(Message, tag="save_password", frozen=True):
    """Save a password: as a new user, or as the newest version of the one that `username` names."""

    password: Password
    username: Username | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    if_version: VersionOrNone | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET
    id: Id = UNSET

    @property
    def plain(self) -> bool:
        """Whether this is the contract's save, of which nothing depends on what is in the book."""
        return (
            self.username is UNSET
            and self.labels is UNSET
            and self.if_version is UNSET
            and self.request_id is UNSET
        )

    @property
    def once(self) -> bool:
        """Whether this is the contract's save with a `request_id`, and nothing else."""
        return (
            self.username is UNSET
            and self.labels is UNSET
            and self.if_version is UNSET
            and self.request_id is not UNSET
        )


class NumberOfUsers(Message, tag="number_of_users", frozen=True):
    """Ask how many users there are; the service's console lists them."""

    id: Id = UNSET


class GetPassword(Message, tag="get_password", frozen=True):
    """Ask for a password: the newest version or an older one."""

    username: Username
    version: Version | UnsetType = UNSET
    id: Id = UNSET


class VerifyPassword(Message, tag="verify_password", frozen=True):
    """Ask whether a password is the newest of a user."""

    username: Username
    password: Password
    id: Id = UNSET


class PasswordHistory(Message, tag="password_history", frozen=True):
    """Ask which versions of a password are kept, and since when."""

    username: Username
    id: Id = UNSET


class RestorePassword(Message, tag="restore_password", frozen=True):
    """Make an older version the newest once more."""

    username: Username
    version: Version
    request_id: RequestId | UnsetType = UNSET
    id: Id = UNSET


class LabelUser(Message, tag="label_user", frozen=True):
    """Set the labels of a user, in place of those it has."""

    username: Username
    labels: Labels
    id: Id = UNSET


class ListUsers(Message, tag="list_users", frozen=True):
    """Ask for a page of users in the order of their names, those behind the name `after`."""

    after: Annotated[str, Meta(max_length=USERNAME_LENGTH_MAX)] = ""
    limit: PageLimit = PAGE_USERS
    prefix: Annotated[str, Meta(max_length=USERNAME_LENGTH_MAX)] = ""
    label: Label | UnsetType = UNSET
    id: Id = UNSET


class DeleteUser(Message, tag="delete_user", frozen=True):
    """Delete a user with all versions of its password."""

    username: Username
    id: Id = UNSET


class GeneratePassword(Message, tag="generate_password", frozen=True):
    """Make a random password, and save it where there is a `username`."""

    length: GeneratedLength = GENERATED_LENGTH
    alphabet: Alphabet | UnsetType = UNSET
    username: Username | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    if_version: VersionOrNone | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET
    id: Id = UNSET


class CheckPassword(Message, tag="check_password", frozen=True):
    """Ask how strong a password is, and what is weak about it."""

    password: Password
    id: Id = UNSET


class Authenticate(Message, tag="authenticate", frozen=True):
    """Say which application this is; what follows on the connection is done as that one's.

    With `scram` in place of the token, the client proves in two messages that it has the token.
    """

    token: Token | UnsetType = UNSET
    scram: Scram | UnsetType = UNSET
    id: Id = UNSET


class Ping(Message, tag="ping", frozen=True):
    """Ask whether the service is alive; nothing else happens."""

    id: Id = UNSET


class Status(Message, tag="status", frozen=True):
    """Ask how the service is doing."""

    id: Id = UNSET


class Bad(Struct, frozen=True, gc=False):
    """A message that cannot be done; `error` says why, or is None where the contract has none."""

    error: str | None = None
    id: Id = UNSET


Request = (
    SavePassword
    | NumberOfUsers
    | GetPassword
    | VerifyPassword
    | PasswordHistory
    | RestorePassword
    | LabelUser
    | ListUsers
    | DeleteUser
    | GeneratePassword
    | CheckPassword
    | Authenticate
    | Ping
    | Status
)
REQUESTS: tuple[type[Message], ...] = get_args(Request)


class SavedVersion(Struct, frozen=True, gc=False):
    """A version of a password and when it was saved (UTC)."""

    version: int
    time_saved: datetime


class User(Struct, frozen=True):
    """A user in a listing: `version` and `time_saved` are of the newest password."""

    username: str
    labels: list[str]
    version: int
    time_saved: datetime


class Reply(Discreet, frozen=True):
    """What a client receives. Fields that the reply does not have are None."""

    message: str
    number_of_users: int | None = None
    username: str | None = None
    password: str | None = None
    version: int | None = None
    time_saved: datetime | None = None
    valid: bool | None = None
    versions: list[SavedVersion] | None = None
    labels: list[str] | None = None
    users: list[User] | None = None
    after: str | None = None
    strength: int | None = None
    warning: str | None = None
    suggestions: list[str] | None = None
    application: str | None = None
    may: list[str] | None = None
    workers: int | None = None
    uptime_s: float | None = None
    parts: dict[str, str] | None = None
    write_error: str | None = None
    write_error_since: datetime | None = None
    token_expires: datetime | None = None
    backup_age_s: float | None = None
    backup_error: str | None = None
    backup_error_since: datetime | None = None
    scram: str | None = None
    error: str | None = None
    id: int | str | None = None


# --- What is sent. The basic contract's replies are the contract's own bytes. ---

PASSWORD_SAVED = b'{"message": "Password saved!"}\n'
INVALID_MESSAGE = b'{"message": "Invalid message!"}\n'
ALIVE = b'{"message": "Alive!"}\n'
_VALID = {
    True: b'{"message": "return_verify_password", "valid": true}\n',
    False: b'{"message": "return_verify_password", "valid": false}\n',
}
_encode_json = msgspec.json.Encoder().encode


def encode(message: str, id: int | str | UnsetType = UNSET, **fields: Any) -> bytes:
    """Return one message as a line: its name, its fields in the given order, its id if any.

    A field may be any plain data, or `msgspec.Raw` for what is JSON already; UNSET leaves it out.
    """
    whole: dict[str, Any] = {"message": message}
    for name, value in fields.items():
        if value is not UNSET:
            whole[name] = value
    if id is not UNSET:
        whole["id"] = id
    return _encode_json(whole) + b"\n"


def refusal(error: Refused, id: Id) -> bytes:
    """Return the reply that says no, with the reason where there is one to give."""
    version = error.version if isinstance(error, VersionConflict) else UNSET
    return encode(error.message, id, error=str(error) or UNSET, version=version)


def passwords_saved(ids: list[Id]) -> bytes:
    """Return the replies to saves that would survive pulling the plug."""
    if ids.count(UNSET) == len(ids):
        return PASSWORD_SAVED * len(ids)
    return b"".join(PASSWORD_SAVED if id is UNSET else encode("Password saved!", id) for id in ids)


def return_number_of_users(number: int, id: Id) -> bytes:
    """Return the reply to `number_of_users`."""
    if id is UNSET:
        return b'{"message": "return_number_of_users", "number_of_users": %d}\n' % number
    return encode("return_number_of_users", id, number_of_users=number)


def return_verify_password(valid: bool, id: Id) -> bytes:
    """Return the reply to `verify_password`."""
    return _VALID[valid] if id is UNSET else encode("return_verify_password", id, valid=valid)


def invalid_message(bad: Bad) -> bytes:
    """Return the reply to a message that cannot be done, with the reason where there is one."""
    if bad.error is None and bad.id is UNSET:
        return INVALID_MESSAGE
    return encode("Invalid message!", bad.id, error=bad.error or UNSET)


def denied(id: Id, reason: str) -> bytes:
    """Return the reply to what one may not do: the same whatever there is or is not."""
    return encode(Denied.message, id, error=reason)


def alive(id: Id) -> bytes:
    """Return the reply to `ping`."""
    return ALIVE if id is UNSET else encode("Alive!", id)
