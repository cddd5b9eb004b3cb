"""The messages of the wire protocol, and the replies: what they are called and what they hold.

Shared by the service and the client; how bytes become messages is the business of `framing`. The
seed's replies are the contract's own bytes. Sentences about bad messages name fields and rules, and
never repeat a value.
"""

import json
import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

PASSWORD_LENGTH_MAX = 4096  # characters; far beyond what people or generators make
ID_LENGTH_MAX = 128  # characters, by the contract

_IdValue = int | Annotated[str, Meta(max_length=ID_LENGTH_MAX)]
Id = _IdValue | UnsetType


class SavePassword(Struct, tag="save_password", tag_field="message", frozen=True, gc=False):
    """Save a password as a new user."""

    password: Annotated[str, Meta(min_length=1, max_length=PASSWORD_LENGTH_MAX)]
    id: Id = UNSET


class NumberOfUsers(Struct, tag="number_of_users", tag_field="message", frozen=True, gc=False):
    """Ask how many users there are; the service's console lists them."""

    id: Id = UNSET


class Ping(Struct, tag="ping", tag_field="message", frozen=True, gc=False):
    """Ask whether the service is alive; nothing else happens."""

    id: Id = UNSET


class Bad(Struct, frozen=True, gc=False):
    """A message that cannot be done; `error` says why, or is None where the seed says nothing."""

    error: str | None = None
    id: Id = UNSET


Request = SavePassword | NumberOfUsers | Ping


class Reply(Struct, frozen=True, gc=False):
    """What a client receives. Fields that the reply does not have are None."""

    message: str
    number_of_users: int | None = None
    error: str | None = None
    id: int | str | None = None


# --- What is sent. The seed's replies are the contract's own bytes. ---

PASSWORD_SAVED = b'{"message": "Password saved!"}\n'
ALIVE = b'{"message": "Alive!"}\n'


def encode(message: str, id: int | str | UnsetType = UNSET, **fields: object) -> bytes:
    """Return one message as a line: its name, its fields in the given order, its id if any."""
    whole: dict[str, object] = {"message": message, **fields}
    if id is not UNSET:
        whole["id"] = id
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


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


def alive(id: Id) -> bytes:
    """Return the reply to `ping`."""
    return ALIVE if id is UNSET else encode("Alive!", id)


# --- What is wrong with a message. ---

_NAMES = frozenset(kind.__struct_config__.tag for kind in (SavePassword, NumberOfUsers, Ping))


class _Envelope(Struct):
    """What can be read of a message whatever else is wrong with it."""

    message: Raw = Raw(b"null")
    id: Raw | UnsetType = UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_NAME: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_ID: msgspec.json.Decoder[int | str] = msgspec.json.Decoder(_IdValue)

# msgspec's texts name the field and the rule, never the value; these make sentences of them.
_SENTENCES = [
    (re.compile(r"missing required field `(\w+)`"), '"{0}" is missing.'),
    (re.compile(r"of length >= 1 - at `\$\.(\w+)`"), '"{0}" is empty.'),
    (re.compile(r"of length <= (\d+) - at `\$\.(\w+)`"), '"{1}" is longer than {0} characters.'),
    (re.compile(r"Expected `str`, got .* - at `\$\.(\w+)`"), '"{0}" must be a text.'),
    (re.compile(r"Expected `str` - at `\$\.(\w+)`"), '"{0}" must be a text.'),
    (re.compile(r"Expected `int \| str`, got"), '"id" must be an integer or a text.'),
    (re.compile(r"`(\w+)` holds NUL"), '"{0}" holds a NUL character.'),
    (re.compile(r"Integer value out of range"), '"id" is too large a number.'),
]


def explain(text: bytes, error: msgspec.ValidationError) -> Bad:
    """Say in a sentence what is wrong with an object that is JSON but no request.

    Raises `msgspec.DecodeError` where it turns out not to be JSON further on.
    """
    envelope = _ENVELOPE.decode(text)
    known_id = UNSET if envelope.id is UNSET else _usable_id(envelope.id)
    id_is_bad = envelope.id is not UNSET and known_id is UNSET
    if _is_unknown(envelope.message) and not id_is_bad:
        return Bad(None, known_id)
    for pattern, sentence in _SENTENCES:
        if found := pattern.search(str(error)):
            return Bad(sentence.format(*found.groups()), known_id)
    if id_is_bad:
        return Bad(f'"id" must be an integer or a text of at most {ID_LENGTH_MAX} characters.')
    return Bad("The message does not have the form of its command.", known_id)


def _is_unknown(name: Raw) -> bool:
    """Tell whether the name of a message is a text, but none that the service knows."""
    try:
        return _NAME.decode(name) not in _NAMES
    except msgspec.DecodeError:
        return False


def _usable_id(value: Raw) -> Id:
    """Return the id of a message as its reply would repeat it, or UNSET for one it could not."""
    try:
        known_id = _ID.decode(value)
    except msgspec.DecodeError:
        return UNSET
    return UNSET if isinstance(known_id, str) and "\0" in known_id else known_id


def refuse_nul(message: object) -> None:
    """Raise `msgspec.ValidationError` where a text of a message holds NUL."""
    for field in getattr(message, "__struct_fields__", ()):
        value = getattr(message, field)
        if isinstance(value, str) and "\0" in value:
            raise msgspec.ValidationError(f"`{field}` holds NUL")
