"""Reads the CSV files of password managers; each format is a row of a table.

To add a format, look at an example of it: give the table its name, the columns by which its header
is recognised, and what each column holds. What is in any other column is counted as left out.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pwserver.errors import ConfigError
from pwserver.moving.entries import Entry, Export
from pwserver.moving.naming import DEFAULT_TEMPLATE

TITLE, LOGIN, PASSWORD, URL, LABELS, TYPE, NOTHING = range(7)
"""What a column holds; `NOTHING` is what nobody misses, such as the time of the last use. A text
instead: something that is left out, by the name of its kind."""

NOTES, TOTP, FIELDS, ADDRESSES = "notes", "TOTP seeds", "custom fields", "web addresses"

if TYPE_CHECKING:
    from _csv import Reader

_FIELD_CHARACTERS_MAX = 2**31 - 1
"""The reader's own limit is lifted: the size of the file is limited, and a long field is
reported like any other that is too long."""


class Format(NamedTuple):
    """A CSV format. Headers are compared without regard to upper and lower case."""

    name: str
    known_by: str  # columns that no other format before it in the table has all of
    columns: Mapping[str, int | str]
    labels: Callable[[str], list[str]] = lambda folder: [folder]


def _without_root(group: str) -> list[str]:
    """Return a group of KeePassXC without the name of the outermost one, which all are in."""
    return [group.partition("/")[2]]


def _between_commas(tags: str) -> list[str]:
    return re.split("[,;]", tags)


_LOGIN_OF_BITWARDEN: Mapping[str, int | str] = {
    "favorite": NOTHING,
    "reprompt": NOTHING,
    "type": TYPE,
    "name": TITLE,
    "notes": NOTES,
    "fields": FIELDS,
    "login_uri": URL,
    "login_username": LOGIN,
    "login_password": PASSWORD,
    "login_totp": TOTP,
}

FORMATS = (
    Format(
        "Bitwarden CSV",
        "folder type name login_uri login_username login_password",
        {"folder": LABELS, **_LOGIN_OF_BITWARDEN},
    ),
    Format(
        "Bitwarden CSV of an organization",
        "collections type name login_uri login_username login_password",
        {"collections": LABELS, **_LOGIN_OF_BITWARDEN},
        _between_commas,
    ),
    Format(
        "KeePassXC CSV",
        "group title username password url",
        {
            "group": LABELS,
            "title": TITLE,
            "username": LOGIN,
            "password": PASSWORD,
            "url": URL,
            "notes": NOTES,
            "totp": TOTP,
            "icon": NOTHING,
            "last modified": NOTHING,
            "created": NOTHING,
        },
        _without_root,
    ),
    Format(
        "1Password CSV",
        "title url username password otpauth",
        {
            "title": TITLE,
            "url": URL,
            "username": LOGIN,
            "password": PASSWORD,
            "otpauth": TOTP,
            "favorite": NOTHING,
            "archived": NOTHING,
            "tags": LABELS,
            "notes": NOTES,
        },
        _between_commas,
    ),
    Format(
        "Firefox CSV",
        "url username password httprealm formactionorigin",
        {
            "url": URL,
            "username": LOGIN,
            "password": PASSWORD,
            "httprealm": NOTHING,
            "formactionorigin": NOTHING,
            "guid": NOTHING,
            "timecreated": NOTHING,
            "timelastused": NOTHING,
            "timepasswordchanged": NOTHING,
        },
    ),
    Format(
        "Chrome CSV",
        "name url username password",
        {"name": TITLE, "url": URL, "username": LOGIN, "password": PASSWORD, "note": NOTES},
    ),
)

_TYPES = {"note": "secure notes", "card": "cards", "identity": "identities"}
"""What a row of Bitwarden may be besides a login."""


def read(text: str, file: str) -> Export | None:
    """Return what is in a CSV file, or None if its header is that of no known format.

    Raises `ConfigError` if the header has a column twice.
    """
    csv.field_size_limit(_FIELD_CHARACTERS_MAX)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
    except csv.Error:
        return None
    form = next((each for each in FORMATS if {*each.known_by.split()} <= {*header}), None)
    if form is None:
        return None
    twice = [name for name in form.columns if header.count(name) > 1]
    if twice:
        raise ConfigError(
            f"{file} has the column {twice[0]!r} twice, and nothing says which one is meant. "
            "Nothing was imported."
        )
    export = Export(form.name, "line", DEFAULT_TEMPLATE)
    _read_rows(rows, header, form, export)
    return export


def _read_rows(rows: "Reader", header: list[str], form: Format, export: Export) -> None:
    meanings = [form.columns.get(name, f"column {name!r}") for name in header]
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            unended = "unexpected end" in str(error)
            export.broken(line, _UNENDED if unended else "has a quote in the wrong place.")
            continue
        if not row:
            continue  # an empty line
        if len(row) != len(header):
            export.broken(line, f"has {len(row)} fields, and the header has {len(header)}.")
        elif [name.strip().lower() for name in row] == header:
            export.broken(line, "is the header again.")
        else:
            _read_row(line, row, meanings, form, export)


_UNENDED = "has a quote that never ends, so nothing from there on was read."


def _read_row(
    line: int, row: list[str], meanings: list[int | str], form: Format, export: Export
) -> None:
    values: dict[int, str] = {}
    kinds = []
    for meaning, value in zip(meanings, row, strict=True):
        if isinstance(meaning, int):
            values[meaning] = value
        elif value.strip():
            kinds.append(meaning)
    other = _TYPES.get(values.get(TYPE, "").lower())
    if other is not None:
        export.left_out[other] += 1
        return
    export.left_out.update(kinds)
    if values[URL]:
        export.left_out[ADDRESSES] += 1
    if not values[PASSWORD]:
        export.left_out["logins without a password"] += 1
        return
    labels = [label.strip() for label in form.labels(values.get(LABELS, ""))]
    export.entries.append(
        Entry(
            line,
            values.get(TITLE, ""),
            values[LOGIN],
            values[PASSWORD],
            values[URL],
            tuple(filter(None, labels)),
        )
    )
