"""Names: what a username or a label may look like, and the names that the service makes itself.

Names compare as exact text in Unicode's normal form C, so that the same letters typed on two
machines are the same name. Refused is what people cannot see or tell apart, because a name is what
a person looks for on a console, in a log and in a table:

- control and format characters (categories Cc and Cf: line breaks, escapes, bidi marks, zero-width
  characters), line and paragraph separators (Zl, Zp);
- characters that Unicode has not assigned (Cn), whose normal form may change with its next version,
  and private ones and surrogates (Co, Cs), which have no meaning of their own;
- white space at the beginning or the end;
- an application's token, which came into the wrong field: names are stored and recorded in clear.

A generated name is `user-` and the user's id in 13 digits of base 32. It needs no column and no
index, because the id is found in the name. Such names sort as their ids do.
"""

import re
import unicodedata
from bisect import bisect_left

from pwserver.errors import InvalidMessage
from pwserver.protocol import USERNAME_LENGTH_MAX
from pwserver.tokens import TOKEN, TOKEN_PREFIX

GENERATED_PREFIX = "user-"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter looks like a digit
_DIGITS = 13  # 5 bits each: enough for 63
_VALUES = {digit: value for value, digit in enumerate(_ALPHABET)}
_GENERATED = re.compile(f"{GENERATED_PREFIX}[0-7][{_ALPHABET}]{{{_DIGITS - 1}}}")
ID_MAX = 2**63 - 1

_REFUSED = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))


def normal(text: str, field: str, length_max: int = USERNAME_LENGTH_MAX) -> str:
    """Return a name or label in the form in which it is kept and compared.

    Raises `InvalidMessage`, with the name of the field it came in, for one that is refused.
    """
    text = composed(text)
    refuse_invisible(text, field)
    refuse_token(text, field)
    if len(text) > length_max:  # a normal form may be longer than what was typed
        raise InvalidMessage(f'"{field}" is longer than {length_max} characters in normal form C.')
    if text[:1].isspace() or text[-1:].isspace():
        raise InvalidMessage(f'"{field}" begins or ends with white space.')
    return text


def refuse_token(text: str, field: str) -> None:
    """Raise `InvalidMessage` for a text with a token in it."""
    if TOKEN_PREFIX in text and TOKEN.search(text):
        raise InvalidMessage(f'"{field}" holds a token, which would not stay secret there.')


def composed(text: str) -> str:
    """Return a text in normal form C."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def refuse_invisible(text: str, field: str) -> None:
    """Raise `InvalidMessage` for a text with a character of the refused categories."""
    if text.isascii() and text.isprintable():
        return
    if any(unicodedata.category(character) in _REFUSED for character in text):
        raise InvalidMessage(
            f'"{field}" holds a character that cannot be seen, such as a line break.'
        )


def generated_name(user_id: int) -> str:
    """Return the name of a user that was saved without one."""
    shifts = range(5 * (_DIGITS - 1), -1, -5)
    return GENERATED_PREFIX + "".join([_ALPHABET[user_id >> shift & 31] for shift in shifts])


def generated_id(name: str) -> int | None:
    """Return the id in a generated name, or None for any other name."""
    if _GENERATED.fullmatch(name) is None:
        return None
    user_id = 0
    for digit in name[len(GENERATED_PREFIX) :]:
        user_id = user_id << 5 | _VALUES[digit]
    return user_id


def first_generated_id(name: str) -> int:
    """Return the least id whose generated name is not before a name, or `ID_MAX`."""
    return bisect_left(range(ID_MAX), name, hi=ID_MAX, key=generated_name)
