"""Names: which usernames and labels are allowed, and the names that the service generates.

Names compare as exact text in Unicode's normal form C, so that the same letters typed on two
machines are the same name. Characters that people cannot see or tell apart are refused, because
people look for names on a console, in a log and in a table:

- control and format characters (categories Cc and Cf: line breaks, escapes, bidi marks, zero-width
  characters), line and paragraph separators (Zl, Zp);
- letters and marks that programs ignore if they cannot show them, and those that look blank
  (`_BLANK`): Hangul fillers, variation selectors, the empty Braille pattern;
- characters that Unicode has not assigned (Cn), whose normal form may change with its next version,
  and private ones and surrogates (Co, Cs), which have no meaning of their own;
- white space at the beginning or the end;
- an application's token in the wrong field, because names are stored and recorded in clear text.

Nobody signs in with a label, so labels may contain the characters that join emoji: a zero-width
joiner between two symbols, and the selector U+FE0F after one.

A generated name is `user-` and the user's id in 13 digits of base 32. It needs no column and no
index, because the name contains the id. Generated names sort in the order of their ids.
"""

import re
import unicodedata
from bisect import bisect_left

from pwserver.errors import InvalidMessage
from pwserver.tokens import TOKEN, TOKEN_PREFIX
from pwserver.wire.messages import USERNAME_LENGTH_MAX

GENERATED_PREFIX = "user-"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter looks like a digit
_DIGITS = 13  # 5 bits each: enough for 63
_VALUES = {digit: value for value, digit in enumerate(_ALPHABET)}
_GENERATED = re.compile(f"{GENERATED_PREFIX}[0-7][{_ALPHABET}]{{{_DIGITS - 1}}}")
ID_MAX = 2**63 - 1

_REFUSED = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))

_BLANK_RANGES = (
    # Default_Ignorable_Code_Point of https://www.unicode.org/Public/16.0.0/ucd/
    # DerivedCoreProperties.txt, without those in a refused category.
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180D),  # Mongolian variation selectors
    (0x180F, 0x180F),
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
    (0xE0100, 0xE01EF),  # variation selectors
    # Not ignorable, but blank by their name or their picture in the code charts.
    (0x2800, 0x2800),  # Braille pattern blank
    (0x13441, 0x13442),  # Egyptian hieroglyph blanks
    (0x16FE4, 0x16FE4),  # Khitan small script filler
    (0x1D159, 0x1D159),  # musical symbol null notehead
)
_BLANK = frozenset(chr(code) for first, last in _BLANK_RANGES for code in range(first, last + 1))

_JOINER, _EMOJI_SELECTOR, _KEYCAP = "\u200d", "\ufe0f", "\u20e3"


def normal(text: str, field: str, length_max: int = USERNAME_LENGTH_MAX) -> str:
    """Return a name or label in the form in which it is stored and compared.

    Raises `InvalidMessage`, which names `field`, if it is refused.
    """
    text = composed(text)
    refuse_invisible(text if field == "username" else _without_joiners(text), field)
    refuse_token(text, field)
    if len(text) > length_max:  # the normal form may be longer than the text that was sent
        raise InvalidMessage(f'"{field}" is longer than {length_max} characters in normal form C.')
    if text[:1].isspace() or text[-1:].isspace():
        raise InvalidMessage(f'"{field}" begins or ends with white space.')
    return text


def refuse_token(text: str, field: str) -> None:
    """Raise `InvalidMessage` for a text that contains a token."""
    if TOKEN_PREFIX in text and TOKEN.search(text):
        raise InvalidMessage(f'"{field}" holds a token, which would not stay secret there.')


def composed(text: str) -> str:
    """Return a text in normal form C."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def refuse_invisible(text: str, field: str) -> None:
    """Raise `InvalidMessage` for a text with a character that people cannot see."""
    if text.isascii() and text.isprintable():
        return
    if not all(map(_is_seen, text)):
        raise InvalidMessage(
            f'"{field}" holds a character that cannot be seen, such as a line break.'
        )


def _is_seen(character: str) -> bool:
    return character not in _BLANK and unicodedata.category(character) not in _REFUSED


def visible_part(text: str) -> str:
    """Return a text as a name that was not chosen here may be put right.

    White space becomes one space each, and what people cannot see is left out.
    """
    one_line = " ".join(composed(text).split())
    if one_line.isascii() and one_line.isprintable():
        return one_line
    return "".join(filter(_is_seen, one_line)).strip()


def _without_joiners(text: str) -> str:
    """Return a text without the characters that join emoji in it."""
    if text.isascii():
        return text
    shown: list[str] = []
    for character, next_one in zip(text, f"{text[1:]} ", strict=True):
        after_symbol = bool(shown) and unicodedata.category(shown[-1]).startswith(("S", "P"))
        if character == _EMOJI_SELECTOR and (after_symbol or next_one == _KEYCAP):
            continue
        if character == _JOINER and after_symbol and unicodedata.category(next_one) == "So":
            continue
        shown.append(character)
    return "".join(shown)


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
    """Return the least id whose generated name does not sort before a name, or `ID_MAX`."""
    return bisect_left(range(ID_MAX), name, hi=ID_MAX, key=generated_name)
