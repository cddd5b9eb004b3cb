"""Fields that look like one that the command knows: `"userName"`, `"label"`, `"pasword"`.

What a message has beside its command's fields is ignored, as the basic contract allows. But who
writes `"user"` for `"username"` means something by it, and nobody would find what was saved without
it. So a field is taken for a known one, and refused:

- that is the same but for case and separators, or but for one slip in a name of five letters or
  more: a letter too many, missing, another, or two that changed places;
- that is a usual other word for one, where that one itself is not there.

Works on names alone: it never sees a value.
"""

import functools
import itertools
from collections.abc import Collection

_SEPARATORS = str.maketrans("", "", "_-. ")
_SLIP_LENGTH_MIN = 5  # letters; of the short names, most others are one slip away
_LENGTH_MAX = 40  # characters of what may look like a field
_FIELDS_MAX = 64
"""Fields that are looked at. With all 6,500 of a message of 60 KB it took 78 ms, while others of
the worker waited; now it takes 7. Who makes a slip has few."""
_NAMES_REMEMBERED = 1024  # those of a client are always the same

_OTHER_WORDS = {
    "account": "username",
    "login": "username",
    "name": "username",
    "uname": "username",
    "user": "username",
    "userid": "username",
    "pass": "password",
    "passwd": "password",
    "pw": "password",
    "pwd": "password",
    "label": "labels",
    "tag": "labels",
    "tags": "labels",
    "idempotencykey": "request_id",
    "expectedversion": "if_version",
    "version": "if_version",
    "len": "length",
    "size": "length",
    "characters": "alphabet",
    "charset": "alphabet",
}
"""Other words for fields, without separators. Not here is what is usual as additional data."""

_MEANT_WITH = {"if_version": "username"}
"""Other words for these are meant for them only beside another field: any save without a name may
say which "version" of a program it comes from."""


def meant(known: tuple[str, ...], given: Collection[str]) -> tuple[str, str] | None:
    """Return the first field that looks like a known one, and that one; None where none does."""
    for name in itertools.islice(given, _FIELDS_MAX):
        if name in known or len(name) > _LENGTH_MAX:
            continue
        if field := _same_but_for_a_slip(known, name):
            return name, field
        word = _word_for(known, name)
        if word and word not in given and _MEANT_WITH.get(word, name) in given:
            return name, word
    return None


@functools.lru_cache(_NAMES_REMEMBERED)
def _same_but_for_a_slip(known: tuple[str, ...], name: str) -> str | None:
    letters = _letters(name)
    for field in known:
        field_letters = _letters(field)
        if letters == field_letters or (
            len(field_letters) >= _SLIP_LENGTH_MIN and _is_one_slip(letters, field_letters)
        ):
            return field
    return None


@functools.lru_cache(_NAMES_REMEMBERED)
def _word_for(known: tuple[str, ...], name: str) -> str | None:
    field = _OTHER_WORDS.get(_letters(name))
    return field if field in known else None


def _letters(name: str) -> str:
    return name.casefold().translate(_SEPARATORS)


def _is_one_slip(one: str, other: str) -> bool:
    """Tell whether a letter is added, left out or replaced, or two beside each other swapped."""
    if not -1 <= len(one) - len(other) <= 1:
        return False
    while one and one[0] == other[:1]:
        one, other = one[1:], other[1:]
    return (
        one[1:] == other[1:]
        or one[1:] == other
        or one == other[1:]
        or (one[1::-1] == other[:2] and one[2:] == other[2:])
    )
