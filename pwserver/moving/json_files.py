"""Reads the JSON files: Bitwarden's export, and the JSON lines that `pwserver export` writes."""

import itertools
from typing import Any

import msgspec
from msgspec import Struct

from pwserver.errors import ConfigError
from pwserver.moving.csv_files import ADDRESSES, FIELDS, NOTES, TOTP
from pwserver.moving.entries import Entry, Export
from pwserver.moving.naming import DEFAULT_TEMPLATE

OWN = "pwserver JSON lines"

_NOT_LOGINS = {2: "secure notes", 3: "cards", 4: "identities", 5: "SSH keys"}
_LOGIN = 1


class _Uri(Struct):
    uri: str | None = None


class _Login(Struct, rename="camel"):
    username: str | None = None
    password: str | None = None
    totp: str | None = None
    uris: list[_Uri] | None = None
    fido2_credentials: list[Any] | None = None


class _Item(Struct, rename="camel"):
    """An item of Bitwarden: a login or something else."""

    type: int
    name: str | None = None
    folder_id: str | None = None
    collection_ids: list[str] | None = None
    notes: str | None = None
    login: _Login | None = None
    fields: list[Any] | None = None
    password_history: list[Any] | None = None
    attachments: list[Any] | None = None


class _Folder(Struct):
    id: str | None
    name: str | None


class _Bitwarden(Struct):
    """The whole file. The items are looked at one by one, so that a bad one spoils no other."""

    items: list[Any] | None = None
    folders: list[_Folder] | None = None
    collections: list[_Folder] | None = None
    encrypted: bool = False


class _Line(Struct):
    """A line of our own; what else stands in it is ignored."""

    username: str
    password: str
    labels: list[str] = []


_decode_line = msgspec.json.Decoder(_Line).decode


def read(text: str, file: str) -> Export | None:
    """Return what is in a JSON file, or None if it is of no known format.

    Raises `ConfigError` for an encrypted export.
    """
    try:
        whole = msgspec.json.decode(text, type=_Bitwarden)
    except (msgspec.DecodeError, RecursionError):
        return _own(text)
    if whole.encrypted:
        raise ConfigError(
            f"{file} is an encrypted export of Bitwarden, which only Bitwarden can read. Export "
            "again with the file format .json, not .json (Encrypted)."
        )
    if whole.items is None:
        return _own(text)
    return _bitwarden(whole)


# --- Bitwarden. ---


def _bitwarden(whole: _Bitwarden) -> Export:
    export = Export("Bitwarden JSON", "item", DEFAULT_TEMPLATE)
    folders = {
        each.id: each.name or ""
        for each in itertools.chain(whole.folders or (), whole.collections or ())
    }
    for number, found in enumerate(whole.items or (), start=1):
        try:
            item = msgspec.convert(found, _Item)
        except (msgspec.ValidationError, RecursionError):
            export.broken(number, "is not as Bitwarden writes an item.")
            continue
        if item.type in _NOT_LOGINS:
            export.left_out[_NOT_LOGINS[item.type]] += 1
        elif item.type != _LOGIN or item.login is None:
            export.broken(number, "is of a kind that is not known.")
        else:
            _add_login(number, item, item.login, folders, export)
    return export


def _add_login(
    number: int, item: _Item, login: _Login, folders: dict[str | None, str], export: Export
) -> None:
    addresses = [each.uri for each in login.uris or () if each.uri]
    export.left_out.update(
        {
            NOTES: int(bool(item.notes)),
            FIELDS: len(item.fields or ()),
            "older passwords": len(item.password_history or ()),
            "attachments": len(item.attachments or ()),
            TOTP: int(bool(login.totp)),
            "passkeys": len(login.fido2_credentials or ()),
            ADDRESSES: len(addresses),
        }
    )
    if not login.password:
        export.left_out["logins without a password"] += 1
        return
    labels = [folders.get(each, "") for each in (item.folder_id, *(item.collection_ids or ()))]
    export.entries.append(
        Entry(
            number,
            item.name or "",
            login.username or "",
            login.password,
            addresses[0] if addresses else "",
            tuple(filter(None, labels)),
        )
    )


# --- Our own. ---


def _own(text: str) -> Export | None:
    export = Export(OWN, "line", "{name}")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = _decode_line(line)
        except (msgspec.DecodeError, RecursionError):
            export.broken(number, "is not a JSON object with a username and a password.")
            continue
        entry = Entry(number, found.username, "", found.password, labels=tuple(found.labels))
        export.entries.append(entry)
    return export if export.entries else None
