"""The wire protocol without any input or output: bytes in, messages out.

Shared by the service and the client. A `Reader` is fed whatever a socket delivered and returns the
messages that are complete. The rules of framing:

- A message is one JSON object. It ends at its closing brace or at a newline, whichever is first: a
  newline always ends a message, so text that is cut short can never swallow the next one.
- Text that is not JSON is answered once; reading resumes after the next newline.
- JSON that is an object but not a request anybody can do is answered; reading goes on behind it.
- A message over the size limit breaks the stream: nothing behind it can be trusted.

How the bytes were split into packets never changes the messages that come out.

Speed: whole lines are decoded by one call of msgspec for the whole buffer. That call takes any
stream of JSON values, so `_decode_lines` first makes sure that no newline stands inside a value.
All that is unusual (a message without a newline, a bad one, one cut in two) goes the slow way,
which finds the end of each object by its quotes and braces and keeps its place between packets.
"""

import json
import re
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

PASSWORD_LENGTH_MAX = 4096  # characters; far beyond what people or generators make
ID_LENGTH_MAX = 128  # characters, by the contract

Id = int | Annotated[str, Meta(max_length=ID_LENGTH_MAX)] | UnsetType


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


# --- What is received. ---

_Message = TypeVar("_Message")

_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_OUTSIDE_STRING = re.compile(rb'["{}\n]')
_INSIDE_STRING = re.compile(rb'["\\\n]')
_CUT_SHORT = -1  # the line ended before the object did
_INCOMPLETE = -2  # more bytes are needed to tell


class Reader(Generic[_Message]):
    """Turns the bytes of one connection into messages of one type (a Struct or a union of them).

    `message_size_max` is in bytes. `broken` becomes true when there is no telling where the next
    message starts; whatever follows is ignored.
    """

    __slots__ = (
        "_buffer",
        "_decode_many",
        "_decode_one",
        "_depth",
        "_in_string",
        "_scanned",
        "_size_max",
        "_skipped",
        "_skipping",
        "broken",
    )

    def __init__(self, decoder: msgspec.json.Decoder[_Message], message_size_max: int) -> None:
        self._decode_one = decoder.decode
        self._decode_many = decoder.decode_lines
        self._size_max = message_size_max
        self._buffer = b""  # the beginning of a message that is not complete
        self._scanned = 0  # how much of it was searched for its end, and what was found there
        self._depth = 0
        self._in_string = False
        self._skipping = False  # bad text was answered: looking for the newline behind it
        self._skipped = 0
        self.broken = False

    @property
    def partial(self) -> bool:
        """Whether the end of a message, or of bad text, is still awaited."""
        return self._skipping or bool(self._buffer)

    @property
    def skipping(self) -> bool:
        """Whether bad text was answered and the newline behind it is awaited."""
        return self._skipping

    def feed(self, data: bytes) -> list[_Message | Bad]:
        """Take what arrived (any bytes, any split) and return the messages complete by now."""
        if self.broken:
            return []
        if self._buffer:
            data = self._buffer + data
        elif not self._skipping and data[:1] == b"{" and data[-1:] == b"}" and b"\n" not in data:
            # One bare object in one packet, as clients without newlines send it.
            whole = self._try_decode(self._decode_one, data)
            if whole is not None:
                return [whole]
        if not self._skipping:
            end = data.rfind(b"\n") + 1
            if 0 < end <= self._size_max:
                lines = data if end == len(data) else data[:end]
                messages = self._decode_lines(lines)
                if messages is not None:
                    self._forget_scan()
                    rest = data[end:]
                    self._buffer = b""
                    return messages + self._read_slowly(rest) if rest else messages
        return self._read_slowly(data)

    def end(self) -> list[_Message | Bad]:
        """Take note that nothing more will come and return what that makes of the last bytes."""
        cut_short = bool(self._buffer) and not self.broken
        self._buffer = b""
        self._skipping = False
        return [Bad("The message is cut short.")] if cut_short else []

    def _decode_lines(self, lines: bytes) -> list[_Message | Bad] | None:
        """Decode whole lines at once, or return None where they need a closer look.

        Every newline must stand between a closing and an opening brace: no value can be continued
        there, so each message begins and ends on its line.
        """
        newlines_between = lines.count(b"\n") - 1
        if lines[:1] != b"{" or lines[-2:] != b"}\n" or lines.count(b"}\n{") != newlines_between:
            return None
        messages: list[_Message | Bad] | None = self._try_decode(self._decode_many, lines)
        return messages

    def _try_decode(self, decode: Any, data: bytes) -> Any:
        """Return what `decode` makes of text that is beyond doubt; None for any other."""
        try:
            if len(data) > self._size_max or b"\\u0000" in data:
                return None
            if not data.isascii():
                data.decode()
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _read_slowly(self, data: bytes) -> list[_Message | Bad]:
        """Take messages off `data` one by one; keep the beginning of an incomplete one."""
        messages: list[_Message | Bad] = []
        at = 0
        while True:
            if self._skipping:
                at = self._skip(data, at)
            blank_until = _NOT_BLANK.search(data, at)
            if blank_until is None or self.broken:
                self._buffer = b""
                return messages
            at = blank_until.start()
            end = self._end_of_object(data, at) if data[at] == ord("{") else _CUT_SHORT
            size = (len(data) if end == _INCOMPLETE else end) - at
            if size > self._size_max:
                self.broken = True
                messages.append(Bad(f"The message is longer than {self._size_max} bytes."))
            elif end == _INCOMPLETE:
                self._buffer = data[at:]
                return messages
            elif end == _CUT_SHORT:
                messages.append(_not_an_object(data, at))
                self._skipping = True
            else:
                messages.append(self._decode_object(data[at:end]))
                at = end

    def _skip(self, data: bytes, at: int) -> int:
        """Return the place behind the newline that ends bad text, or the end of the data."""
        newline = data.find(b"\n", at)
        end = len(data) if newline < 0 else newline + 1
        self._skipping = newline < 0
        self._skipped = self._skipped + end - at if self._skipping else 0
        self.broken = self._skipped > self._size_max
        return end

    def _end_of_object(self, data: bytes, at: int) -> int:
        """Return where the object that begins at `at` ends, or why that cannot be said.

        Goes on from where the last call for the same object stopped, so that a message which comes
        a byte at a time is searched once, not once a byte.
        """
        position, depth, in_string = at + self._scanned, self._depth, self._in_string
        while True:
            found = (_INSIDE_STRING if in_string else _OUTSIDE_STRING).search(data, position)
            if found is None:
                self._scanned, self._depth, self._in_string = len(data) - at, depth, in_string
                return _INCOMPLETE
            position = found.end()
            mark = found[0]
            if mark == b"\n":
                self._forget_scan()
                return _CUT_SHORT
            if mark == b'"':
                in_string = not in_string
            elif mark == b"\\":
                if data[position : position + 1] not in (b"", b"\n"):
                    position += 1
                elif position == len(data):  # what it escapes is not here yet: look again
                    self._scanned, self._depth, self._in_string = position - 1 - at, depth, True
                    return _INCOMPLETE
            elif mark == b"{":
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    self._forget_scan()
                    return position

    def _forget_scan(self) -> None:
        self._scanned, self._depth, self._in_string = 0, 0, False

    def _decode_object(self, text: bytes) -> _Message | Bad:
        """Decode one complete object; where it is not JSON, what follows it is skipped."""
        try:
            text.decode()
            try:
                message = self._decode_one(text)
                if b"\\u0000" in text:
                    _refuse_nul(message)
                return message
            except msgspec.ValidationError as error:
                return _explain(_ENVELOPE.decode(text), error)
        except RecursionError:
            return Bad("The message is nested too deeply.")
        except UnicodeDecodeError:
            self._skipping = True
            return Bad("The text is not valid UTF-8.")
        except msgspec.DecodeError:
            try:
                json.loads(text)  # takes lone surrogates and NaN, which msgspec does not
            except (ValueError, RecursionError):
                self._skipping = True
                return Bad("The text is not JSON.")
            return Bad("The message holds a value that is not allowed, such as a lone surrogate.")


def request_reader(message_size_max: int) -> Reader[Request]:
    """Return a reader for the service's side of a connection."""
    return Reader(_REQUESTS, message_size_max)


def reply_reader(message_size_max: int) -> Reader[Reply]:
    """Return a reader for the client's side of a connection."""
    return Reader(_REPLIES, message_size_max)


_REQUESTS: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_REPLIES: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_NAMES = frozenset(kind.__struct_config__.tag for kind in (SavePassword, NumberOfUsers, Ping))


class _Envelope(Struct):
    """What can be read of a message whatever else is wrong with it."""

    message: Any = UNSET
    id: Any = UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)

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


def _explain(envelope: _Envelope, error: msgspec.ValidationError) -> Bad:
    """Say in a sentence what is wrong with an object that is JSON but no request."""
    known_id = _usable_id(envelope.id)
    id_is_bad = envelope.id is not UNSET and known_id is UNSET
    if isinstance(envelope.message, str) and envelope.message not in _NAMES and not id_is_bad:
        return Bad(None, known_id)
    for pattern, sentence in _SENTENCES:
        if found := pattern.search(str(error)):
            return Bad(sentence.format(*found.groups()), known_id)
    if id_is_bad:
        return Bad(f'"id" must be an integer or a text of at most {ID_LENGTH_MAX} characters.')
    return Bad("The message does not have the form of its command.", known_id)


def _usable_id(value: object) -> Id:
    """Return the id of a message as its reply would repeat it, or UNSET for one it could not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= ID_LENGTH_MAX and "\0" not in value:
        return value
    return UNSET


def _refuse_nul(message: object) -> None:
    for field in getattr(message, "__struct_fields__", ()):
        value = getattr(message, field)
        if isinstance(value, str) and "\0" in value:
            raise msgspec.ValidationError(f"`{field}` holds NUL")


def _not_an_object(data: bytes, at: int) -> Bad:
    if data[at] != ord("{"):
        return Bad("The text is not a JSON object.")
    return Bad("The text is not a complete JSON object; a newline ends a message.")
