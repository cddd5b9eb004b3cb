"""The client's half of the protocol, without input or output: a function for each command.

Each function returns a `Call`: the bytes of the request, how to read its reply, and whether it may
be sent again if the reply is lost. The methods of `Client`, `AsyncClient` and the pipelines are
made from these functions, so that a command's parameters, types and docstring are written once; the
docstring says what the method does. `retry` waits for replies and repeats requests.
"""

import inspect
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Generic, TypeVar, get_args

import msgspec

from pwserver.client.results import (
    Generated,
    Page,
    Password,
    Saved,
    SavedVersion,
    Status,
    Strength,
)
from pwserver.errors import (
    Denied,
    InvalidMessage,
    NotSaved,
    ProtocolViolation,
    Refused,
    UnknownUser,
    UnknownVersion,
    VersionConflict,
)
from pwserver.wire import messages
from pwserver.wire.messages import Reply

T = TypeVar("T")

_REFUSALS = {kind.message: kind for kind in Refused.__subclasses__()}
_REASONS = {
    Denied.message: "This needs the token of an application that may do it.",
    UnknownUser.message: "There is no user {username!r}.",
    UnknownVersion.message: "There is no version {version} of {username!r}, or no more.",
}
"""The text of a refusal for which the service gives no reason."""

_NUMBERS = frozenset({"version", "if_version", "limit", "length"})

_SAVE = "The password may or may not have been saved"
_RESTORE = "The password may or may not have been restored"
_LABEL = "The labels may or may not have been set"
_DELETE = "The user may or may not have been deleted"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how to read its reply.

    `fate` is what is unknown while the reply is missing; empty for a call that changes nothing.
    """

    request: bytes = field(repr=False)  # may hold a password
    read: Callable[[Reply], T] = field(repr=False)
    fate: str = ""
    repeatable: bool = True
    username: str = ""
    version: int | None = None

    def result(self, reply: Reply) -> T | Refused:
        """Return the result in a reply, or the refusal; raise `ProtocolViolation`."""
        refusal = _REFUSALS.get(reply.message)
        if refusal is None:
            return self.read(reply)
        if refusal is NotSaved and reply.version is not None:
            return VersionConflict(reply.error or refusal.message, reply.version)
        reason = _REASONS.get(reply.message, "The service answered: {message}")
        about = {"username": self.username, "version": self.version, "message": reply.message}
        return refusal(reply.error or reason.format(**about))


def save_password(
    password: str,
    *,
    username: str | None = None,
    labels: Iterable[str] | None = None,
    if_version: int | None = None,
) -> Call[Saved]:
    """Save a password (1 to 4,096 characters); returns when it would survive a power loss.

    With a `username` it becomes that user's newest version; without one, it gets a user of its own.
    `labels` replace the user's labels. With `if_version` the password is saved only if that is the
    user's newest version, and with 0 only if there is no such user; otherwise raises
    `VersionConflict`.
    """
    request = _request(
        "save_password",
        {"password": password, "request_id": new_request_id()},
        username=username,
        labels=labels,
        if_version=if_version,
    )
    read = _SAVED if username is None else _SAVED_AS
    return Call(request, read, _SAVE, username=username or "")


def save_over(
    password: str, username: str, labels: Iterable[str] | None, if_version: int
) -> Call[Saved]:
    """Return a save without a `request_id`, which costs the service a third less.

    It is for a caller that takes a `VersionConflict` as an answer and looks at what is there: sent
    again, it does not find the version that it was to be saved over.
    """
    fields = {"password": password, "username": username, "if_version": if_version}
    request = _request("save_password", fields, labels=labels)
    return Call(request, _SAVED_AS, _SAVE, username=username)


def get_password(username: str, *, version: int | None = None) -> Call[Password]:
    """Return the newest password of a user, or an older version.

    Raises `UnknownUser` or `UnknownVersion`.
    """
    request = _request("get_password", {"username": username}, version=version)
    return Call(request, _PASSWORD, username=username, version=version)


def verify_password(username: str, password: str) -> Call[bool]:
    """Return whether a password is the user's newest; False if there is no such user."""
    request = _request("verify_password", {"username": username, "password": password})
    return Call(request, _VALID)


def password_history(username: str) -> Call[list[SavedVersion]]:
    """Return the versions of a user's password that are kept, the newest first.

    Raises `UnknownUser`.
    """
    return Call(_request("password_history", {"username": username}), _HISTORY, username=username)


def restore_password(username: str, version: int) -> Call[Saved]:
    """Save an older version of a password again, as the newest.

    Raises `UnknownUser` or `UnknownVersion`.
    """
    fields = {"username": username, "version": version, "request_id": new_request_id()}
    request = _request("restore_password", fields)
    return Call(request, _RESTORED, _RESTORE, username=username, version=version)


def label_user(username: str, labels: Iterable[str]) -> Call[list[str]]:
    """Replace the labels of a user; return them as they are now.

    Raises `UnknownUser`.
    """
    fields = {"username": username, "labels": labels}
    return Call(_request("label_user", fields), _LABELS, _LABEL, username=username)


def list_users(
    *, after: str = "", limit: int | None = None, prefix: str = "", label: str | None = None
) -> Call[Page]:
    """Return a page of the users whose names begin with `prefix` and that have the `label`.

    Pass `Page.after` as `after` to get the next page; it is None on the last one.
    """
    fields = {"after": after, "prefix": prefix}
    return Call(_request("list_users", fields, limit=limit, label=label), _PAGE)


def delete_user(username: str) -> Call[None]:
    """Delete a user with all versions of its password; raises `UnknownUser`."""
    request = _request("delete_user", {"username": username})
    # Not repeatable: meanwhile somebody may have saved a new user of the same name.
    return Call(request, _DELETED, _DELETE, repeatable=False, username=username)


def generate_password(
    *,
    length: int | None = None,
    alphabet: str | None = None,
    username: str | None = None,
    labels: Iterable[str] | None = None,
    if_version: int | None = None,
) -> Call[Generated]:
    """Return a random password; with a `username`, save it as `save_password` does."""
    saves = username is not None
    request = _request(
        "generate_password",
        {"request_id": new_request_id()} if saves else {},
        length=length,
        alphabet=alphabet,
        username=username,
        labels=labels,
        if_version=if_version,
    )
    if username is None:
        return Call(request, _GENERATED)
    return Call(request, _GENERATED_AS, _SAVE, username=username)


def check_password(password: str) -> Call[Strength]:
    """Return how strong a password is; it is not saved."""
    return Call(_request("check_password", {"password": password}), _STRENGTH)


def number_of_users() -> Call[int]:
    """Return the number of users. The service prints the users on its console."""
    return Call(_request("number_of_users"), _NUMBER_OF_USERS)


def ping() -> Call[None]:
    """Return if the service is alive."""
    return Call(_request("ping"), _ALIVE)


def status() -> Call[Status]:
    """Return how the service is doing."""
    return Call(_request("status"), _STATUS)


def describe(method: Any, command: Callable[..., Call[Any]], owner: str, kind: Any = None) -> None:
    """Give a method of the class `owner` the signature and the docstring of its command.

    `help` and `inspect` show them. The method returns the command's result, or a `kind` of it.
    """
    signature = inspect.signature(command)
    (result,) = get_args(signature.return_annotation)
    returns = (None if result is NoneType else result) if kind is None else kind[result]
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = signature.replace(
        parameters=[this, *signature.parameters.values()], return_annotation=returns
    )
    method.__annotations__ = {**command.__annotations__, "return": returns}
    method.__name__, method.__doc__ = command.__name__, command.__doc__
    method.__qualname__ = f"{owner}.{command.__name__}"


def new_request_id() -> str:
    """Return an id that no other request has, by which the service recognises a repeated one.

    It begins with the time, so that ids grow: the service then adds them at one end of its index.
    Random ids would touch pages all over it.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def _request(message: str, needed: dict[str, Any] | None = None, **optional: Any) -> bytes:
    """Return a request; optional fields that are None are left out."""
    fields = dict(needed or {})
    fields |= {name: value for name, value in optional.items() if value is not None}
    for name, value in fields.items():
        if name == "labels":
            fields[name] = _labels(value)
        else:
            _check_type(name, value)
    try:
        return messages.encode(message, **fields)
    except UnicodeEncodeError:
        pass  # raised below: this error holds the text, and must not become the context
    raise InvalidMessage("A text of the request holds half a character (a lone surrogate).")


def _labels(labels: Any) -> list[str]:
    if isinstance(labels, str):  # it would become a list of its characters
        raise TypeError("labels must be several texts, not one")
    texts = list(labels)
    for text in texts:
        _check_type("a label", text)
    return texts


def _check_type(name: str, value: object) -> None:
    """Refuse what JSON would silently convert, such as bytes into base64."""
    kind, wanted = (int, "a whole number") if name in _NUMBERS else (str, "a text")
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


# --- How replies are read. ---


def _reads(kind: type[T], message: str, *needed: str) -> Callable[[Reply], T]:
    """Return a function that makes a result of a reply, which must have the `needed` fields."""

    def read(reply: Reply) -> T:
        _expect(reply, message, needed)
        try:
            return msgspec.convert(reply, kind, from_attributes=True)
        except msgspec.ValidationError as error:
            problem = str(error)  # names the field, never its value
        raise ProtocolViolation(f"the answer {message!r} is not complete: {problem}.")

    return read


def _reads_field(message: str, name: str) -> Callable[[Reply], Any]:
    """Return a function that reads one field of a reply."""

    def read(reply: Reply) -> Any:
        _expect(reply, message, (name,))
        return getattr(reply, name)

    return read


def _reads_nothing(message: str) -> Callable[[Reply], None]:
    """Return a function that checks a reply without fields."""
    return lambda reply: _expect(reply, message, ())


def _expect(reply: Reply, message: str, needed: tuple[str, ...]) -> None:
    if reply.message != message:
        raise ProtocolViolation("the answer is to another request than the one that was sent.")
    for name in needed:
        if getattr(reply, name) is None:
            raise ProtocolViolation(f"the answer {message!r} has no {name!r}.")


_SAVED = _reads(Saved, "Password saved!")
_SAVED_AS = _reads(Saved, "Password saved!", "username")
_RESTORED = _reads(Saved, "Password restored!", "username", "version")
_PASSWORD = _reads(Password, "return_password")
_VALID = _reads_field("return_verify_password", "valid")
_HISTORY = _reads_field("return_password_history", "versions")
_LABELS = _reads_field("User labelled!", "labels")
_PAGE = _reads(Page, "return_users")
_DELETED = _reads_nothing("User deleted!")
_GENERATED = _reads(Generated, "return_generated_password")
_GENERATED_AS = _reads(Generated, "return_generated_password", "username")
_STRENGTH = _reads(Strength, "return_check_password")
_NUMBER_OF_USERS = _reads_field("return_number_of_users", "number_of_users")
_ALIVE = _reads_nothing("Alive!")
_STATUS = _reads(Status, "return_status")
