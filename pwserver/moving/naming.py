"""Makes the names under which imported passwords are saved, by a template such as {name}/{login}.

The rule, which docs/operations.md has for users:

- `{name}` is the title, or without one the host of the web address; `{login}`, `{host}` and
  `{folder}` (the first folder or tag) are what they say. A field that is empty is left out, with
  the text between it and the field before it.
- A name that the service would refuse is put right if that is possible: white space becomes one
  space, and characters that cannot be seen are left out.
- The second entry of a name gets " (2)" after it. One that has the same password too is a
  duplicate, and left out.

The same file gives the same names each time.
"""

import string
from typing import NamedTuple
from urllib.parse import urlsplit

from pwserver.errors import ConfigError, InvalidMessage
from pwserver.moving.entries import Entry, Export, Finding, Kind
from pwserver.wire.messages import (
    LABEL_LENGTH_MAX,
    LABELS_MAX,
    PASSWORD_LENGTH_MAX,
    USERNAME_LENGTH_MAX,
)
from workers.book.names import generated_id, normal, visible_part

DEFAULT_TEMPLATE = "{name}/{login}"
FIELDS = ("name", "login", "host", "folder")
IMPORTED_PREFIX = "imported-"
"""Before a name of the form that only the service makes."""


class Named(NamedTuple):
    """What is to be saved."""

    line: int
    name: str
    password: str
    labels: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Named(line={self.line}, name={self.name!r})"


class Template:
    """A template of names. Raises `ConfigError` for one that cannot be used."""

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str]] = []  # what stands before a field, and the field
        self._end = ""
        try:
            for literal, field, spec, conversion in string.Formatter().parse(text):
                self._end += literal
                if field is None:
                    continue
                if field not in FIELDS or spec or conversion:
                    raise ValueError
                self._parts.append((self._end, field))
                self._end = ""
        except ValueError:
            self._parts.clear()
        if not self._parts:
            fields = ", ".join(f"{{{each}}}" for each in FIELDS)
            raise ConfigError(
                f"name is {text!r}; it must be made of {fields}, such as {DEFAULT_TEMPLATE}."
            )

    def name(self, entry: Entry) -> str:
        """Return the name of an entry, empty if none of the fields has anything."""
        values = [(literal, _value(field, entry)) for literal, field in self._parts]
        filled = [(literal, value) for literal, value in values if not _is_blank(value)]
        if not filled:
            return ""
        inner = "".join(literal + value for literal, value in filled[1:])
        return self._parts[0][0] + filled[0][1] + inner + self._end


def _value(field: str, entry: Entry) -> str:
    """Return what a field of a template stands for."""
    if field == "name" and not _is_blank(entry.title):
        return entry.title
    if field == "login":
        return entry.login
    if field == "folder":
        return entry.labels[0] if entry.labels else ""
    return host_of(entry.url)


def _is_blank(text: str) -> bool:
    """Tell whether nobody can see anything of a text."""
    if text.isascii() and text.isprintable():
        return not text or text.isspace()
    return not visible_part(text)


def named(export: Export, template: Template) -> tuple[list[Named], list[Finding]]:
    """Return the entries with their names, each name once, and what is to be said of them."""
    namer = _Namer(template, export.unit)
    found = [each for entry in export.entries if (each := namer.one(entry)) is not None]
    return found, namer.findings


class _Namer:
    """Knows the names that were given so far."""

    def __init__(self, template: Template, unit: str) -> None:
        self._template = template
        self._unit = unit
        self.findings: list[Finding] = []
        self._taken: set[str] = set()
        self._lines: dict[tuple[str, str], int] = {}  # by name, before its number, and password
        self._numbers: dict[str, int] = {}  # how many entries had a name

    def one(self, entry: Entry) -> Named | None:
        """Return an entry with its name, or None if it is not to be saved."""
        try:
            _check_password(entry.password)
            name = self._once(entry, self._base(entry))
        except InvalidMessage as error:
            self._say(entry, "broken", str(error))
            return None
        if name is None:
            return None
        return Named(entry.line, name, entry.password, self._labels(entry))

    def _base(self, entry: Entry) -> str:
        text = self._template.name(entry)
        if not text:
            raise InvalidMessage("has nothing to make a name of.")
        name = _name(text)
        if generated_id(name) is None:
            return name
        name = IMPORTED_PREFIX + name
        self._say(entry, "note", f"has a name that only the service may make: it is {name!r} now.")
        return name

    def _once(self, entry: Entry, base: str) -> str | None:
        """Return a name that no entry before had, or None for a duplicate."""
        key = base, entry.password
        if (line := self._lines.setdefault(key, entry.line)) != entry.line:
            self._say(entry, "duplicate", f"is the same as {self._unit} {line}.")
            return None
        name, number = base, self._numbers.get(base, 1)
        while name in self._taken:
            number += 1
            name = _name(f"{base} ({number})")
        self._numbers[base] = number
        self._taken.add(name)
        if name != base:
            self._say(entry, "note", f"has the name of another before it: it is {name!r} now.")
        return name

    def _labels(self, entry: Entry) -> tuple[str, ...]:
        labels: dict[str, None] = {}
        for text in entry.labels:
            if _is_blank(text):
                continue
            try:
                labels[_put_right(text, "labels", LABEL_LENGTH_MAX)] = None
            except InvalidMessage as error:
                why = str(error).replace('"labels"', "it")
                self._say(entry, "note", f"has a folder or tag that is left out: {why}")
        if len(labels) > LABELS_MAX:
            self._say(entry, "note", f"has more than {LABELS_MAX} tags; the rest is left out.")
        return tuple(labels)[:LABELS_MAX]

    def _say(self, entry: Entry, kind: Kind, what: str) -> None:
        self.findings.append(Finding(entry.line, kind, what))


def _name(text: str) -> str:
    try:
        return _put_right(text, "username")
    except InvalidMessage as error:
        why = str(error).replace('"username"', "it")
    raise InvalidMessage(f"has a name that cannot be used: {why}")


def _put_right(text: str, field: str, length_max: int = USERNAME_LENGTH_MAX) -> str:
    """Return a name or label as it is stored, without what the service would refuse it for."""
    try:
        return normal(text, field, length_max)
    except InvalidMessage:
        return normal(visible_part(text), field, length_max)


def host_of(url: str) -> str:
    """Return the host in a web address, empty if there is none."""
    try:
        return urlsplit(url if "://" in url else f"//{url}").hostname or ""
    except ValueError:
        return ""


def _check_password(password: str) -> None:
    if len(password) > PASSWORD_LENGTH_MAX:
        raise InvalidMessage(
            f"has a password of more than {PASSWORD_LENGTH_MAX:,} characters, which is the most."
        )
    if "\0" in password:
        raise InvalidMessage("has a password with a NUL character.")
    if not password.isascii() and any("\ud800" <= each <= "\udfff" for each in password):
        raise InvalidMessage("has a password with half a character.")
