"""What is wrong with a message, in sentences: they name fields and rules, and never repeat a value.

Works on the text of a message that is JSON but no request, and on what msgspec says of it. Knows
nothing of framing.
"""

import re

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pwserver.wire.lookalikes import meant
from pwserver.wire.messages import ID_LENGTH_MAX, REQUESTS, Bad, Id, IdValue

_FIELDS = {str(kind.__struct_config__.tag): kind.__struct_fields__ for kind in REQUESTS}
"""The fields of each message that the service knows."""

_UNKNOWN_FIELD = "Object contains unknown field"  # as msgspec's text of that error begins


class _Envelope(Struct):
    """What can be read of a message whatever else is wrong with it."""

    message: Raw = Raw(b"null")
    id: Raw | UnsetType = UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_PARTS: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_NAME: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_ID: msgspec.json.Decoder[int | str] = msgspec.json.Decoder(IdValue)

# msgspec's texts name the field and the rule, never the value; these make sentences of them. A
# field is `$.labels`, a text in a list `$.labels[0]`.
_SENTENCES = [
    (
        re.compile(r"`(.*)` of `(\w+)` looks like `(\w+)`"),
        '"{0}" is not a field of {1}; did you mean "{2}"?',
    ),
    (re.compile(r"missing required field `(\w+)`"), '"{0}" is missing.'),
    (re.compile(r"`str` of length >= 1 - at `\$\.(\w+)\[\d+\]`"), '"{0}" holds an empty text.'),
    (re.compile(r"`str` of length >= 1 - at `\$\.(\w+)`"), '"{0}" is empty.'),
    (
        re.compile(r"`str` of length >= (\d+) - at `\$\.(\w+)`"),
        '"{1}" is shorter than {0} characters.',
    ),
    (
        re.compile(r"`str` of length <= (\d+) - at `\$\.(\w+)\[\d+\]`"),
        '"{1}" holds a text longer than {0} characters.',
    ),
    (
        re.compile(r"`str` of length <= (\d+) - at `\$\.(\w+)`"),
        '"{1}" is longer than {0} characters.',
    ),
    (
        re.compile(r"`array` of length <= (\d+) - at `\$\.(\w+)`"),
        '"{1}" holds more than {0} texts.',
    ),
    (re.compile(r"Expected `int` >= (\d+) - at `\$\.(\w+)`"), '"{1}" is less than {0}.'),
    (re.compile(r"Expected `int` <= (\d+) - at `\$\.(\w+)`"), '"{1}" is more than {0}.'),
    (re.compile(r"Expected `str`(?:, got .*)? - at `\$\.(\w+)\[\d+\]`"), '"{0}" must hold texts.'),
    (re.compile(r"Expected `str`(?:, got .*)? - at `\$\.(\w+)`"), '"{0}" must be a text.'),
    (re.compile(r"Expected `array`, got .* - at `\$\.(\w+)`"), '"{0}" must be a list of texts.'),
    (re.compile(r"Expected `int`, got .* - at `\$\.(\w+)`"), '"{0}" must be a whole number.'),
    (re.compile(r"Expected `int \| str`, got"), '"id" must be an integer or a text.'),
    (re.compile(r"`(\w+)` holds NUL"), '"{0}" holds a NUL character.'),
    (
        re.compile(r"Integer value out of range(?: - at `\$\.(\w+)`)?"),
        '"{0}" is too large a number.',
    ),
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


def without_extras(text: bytes, error: msgspec.ValidationError) -> bytes:
    """Return a message without the fields that its command does not know.

    Raises the error where it is about something else, and another `msgspec.ValidationError` where
    one of the fields looks like one that the command does know. That error names it.
    """
    if not str(error).startswith(_UNKNOWN_FIELD):
        raise error
    parts = _PARTS.decode(text)
    command = _NAME.decode(parts.pop("message"))
    known = _FIELDS.get(command)
    if known is None:  # it has two names, of which the last says what it is
        raise error
    if looks := meant(known, parts):
        given = "".join([each if each.isprintable() else "?" for each in looks[0]])
        raise msgspec.ValidationError(f"`{given}` of `{command}` looks like `{looks[1]}`")
    kept = {name: parts[name] for name in known if name in parts}
    return msgspec.json.encode({"message": command, **kept})


def _is_unknown(name: Raw) -> bool:
    """Tell whether the name of a message is a text, but none that the service knows."""
    try:
        return _NAME.decode(name) not in _FIELDS
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
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise msgspec.ValidationError(f"`{field}` holds NUL")
