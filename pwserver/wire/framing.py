"""The framing of the wire protocol without any input or output: bytes in, messages out.

Shared by the service and the client. A `Reader` is fed whatever a socket delivered and returns the
messages that are complete. The rules of framing:

- A message is one JSON object. It ends at its closing brace or at a newline, whichever is first: a
  newline always ends a message, so text that is cut short can never swallow the next one.
- Text that is not JSON is answered once; reading resumes after the next newline.
- A JSON object that is not a valid request is answered; reading goes on after it.
- Text that is no object breaks the stream if nothing came before it, or if it looks like HTTP: any
  web page can have a browser send a request to a service on the same machine, and what the page
  likes is in it. What speaks another protocol is not read on for a message either.
- A message over the size limit breaks the stream: nothing after it can be trusted.

How the bytes were split into packets never changes the messages that come out.

Speed: one call of msgspec decodes all whole lines in the buffer. That call accepts any stream of
JSON values, so `_decode_lines` first makes sure that no newline stands inside a value. Everything
unusual (a message without a newline, a bad one, one cut in two, one with fields that its command
does not know) goes the slow way. That way finds the end of each object by its quotes and braces,
and remembers how far it has searched between packets.
"""

import json
import re
from typing import Generic, TypeVar

import msgspec

from pwserver.wire.messages import Bad, Reply, Request
from pwserver.wire.validation_errors import explain, refuse_nul, without_extras

NESTING_MAX = 64  # objects and lists within each other, the message itself included

_Message = TypeVar("_Message")

_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_OUTSIDE_STRING = re.compile(rb'["{}[\]\n]')
_INSIDE_STRING = re.compile(rb'["\\\n]')
_NOT_COMPLETE = "The text is not a complete JSON object; a newline ends a message."
_LIKE_HTTP = re.compile(rb"[A-Z]+ |[A-Za-z][A-Za-z0-9-]*:")  # a method, or the name of a header
_LIKE_HTTP_BYTES = 64  # more than any method or usual header has
_BAD_NESTING = Bad("The message is nested too deeply.")

# What the search for the end of an object may find; cut short: its line ended before it did.
_COMPLETE, _TOO_DEEP, _CUT_SHORT, _INCOMPLETE = range(4)


def decode_whole(
    decoder: msgspec.json.Decoder[_Message], data: bytes, size_max: int
) -> list[_Message] | None:
    """Decode whole lines, or one object without a newline; None where that needs a closer look.

    Every newline must stand between a closing and an opening brace: no value can be continued
    there, so each message begins and ends on its line.
    """
    newlines = data.count(b"\n")
    if newlines and (data[-2:] != b"}\n" or (newlines > 1 and data.count(b"}\n{") != newlines - 1)):
        return None
    size = len(data)
    if size > size_max or b"\\u0000" in data:
        return None
    if size > NESTING_MAX and data.count(b"{") + data.count(b"[") - newlines >= NESTING_MAX:
        return None
    try:
        if not data.isascii():
            data.decode()
        return decoder.decode_lines(data) if newlines else [decoder.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Scan:
    """The search for the end of one object, which may go on in the next packet."""

    __slots__ = ("braces", "brackets", "deepest", "done", "in_string")

    def __init__(self) -> None:
        self.done = 0  # bytes that were searched
        self.in_string = False
        self.braces = self.brackets = self.deepest = 0

    def nest(self, mark: bytes) -> bool:
        """Take a brace or a bracket outside of strings; return whether it ends the object."""
        if mark == b"{":
            self.braces += 1
        elif mark == b"}":
            self.braces -= 1
        else:
            self.brackets += 1 if mark == b"[" else -1
        self.deepest = max(self.deepest, self.braces + self.brackets)
        return self.braces == 0


class Reader(Generic[_Message]):
    """Turns the bytes of one connection into messages of one type (a Struct or a union of them).

    `message_size_max` is in bytes. `broken` becomes true when there is no telling where the next
    message starts; whatever follows is ignored. Set `begun` where other messages of the connection
    were read elsewhere.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_line",
        "_scan",
        "_size_max",
        "_skipped",
        "begun",
        "broken",
        "skipping",
        "unsettled",
    )

    def __init__(self, decoder: msgspec.json.Decoder[_Message], message_size_max: int) -> None:
        self._decoder = decoder
        self._size_max = message_size_max
        self._buffer = b""  # the beginning of a message that is not complete
        self._scan = _Scan()  # how far its end has been searched for
        self.skipping = False  # bad text was answered: looking for the newline after it
        self._skipped = 0
        self._line: bytes | None = None  # how skipped text that is no object begins
        self.begun = False  # an object has begun: the other side speaks this protocol
        self.broken = False
        self.unsettled = False  # waiting for the rest of a message or of bad text; or broken

    @property
    def buffered(self) -> int:
        """How many bytes of an incomplete message it keeps."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[_Message | Bad]:
        """Take what arrived (any bytes, any split) and return the messages complete by now."""
        if not self.unsettled:
            whole = decode_whole(self._decoder, data, self._size_max)
            if whole is not None:
                self.begun = True
                return [*whole]
        messages = self._feed_unusual(data)
        self.unsettled = bool(self._buffer) or self.skipping or self.broken
        return messages

    def _feed_unusual(self, data: bytes) -> list[_Message | Bad]:
        if self._buffer:
            data = self._buffer + data
        elif self.skipping or self.broken:
            return [] if self.broken else self._read_slowly(data)
        end = data.rfind(b"\n") + 1
        whole = decode_whole(self._decoder, data[:end], self._size_max) if end else None
        if whole is None:
            return self._read_slowly(data)
        self._forget()
        self.begun = True
        return [*whole, *self._read_slowly(data[end:])]

    def end(self) -> list[_Message | Bad]:
        """Take note that nothing more will come and return what that makes of the last bytes."""
        cut_short = bool(self._buffer) and not self.broken
        self._buffer = b""
        self.skipping, self._line = False, None
        self.unsettled = self.broken
        return [Bad("The message is cut short.")] if cut_short else []

    def _read_slowly(self, data: bytes) -> list[_Message | Bad]:
        """Take messages off `data` one by one; keep the beginning of an incomplete one."""
        messages: list[_Message | Bad] = []
        at = 0
        while True:
            if self.skipping:
                at = self._skip(data, at)
            blank_until = _NOT_BLANK.search(data, at)
            if blank_until is None or self.broken:
                self._buffer = b""
                return messages
            at = blank_until.start()
            if data[at] != ord("{"):
                messages.append(Bad("The text is not a JSON object."))
                if self.begun:
                    self.skipping, self._line = True, b""
                else:
                    self.broken = True
                continue
            self.begun = True
            found, end = self._end_of_object(data, at)
            if end - at > self._size_max:
                self.broken = True
                messages.append(Bad(f"The message is longer than {self._size_max} bytes."))
            elif found == _INCOMPLETE:
                self._buffer = data[at:]
                return messages
            elif found == _CUT_SHORT:
                messages.append(Bad(_NOT_COMPLETE))
                self.skipping = True
            else:
                too_deep = found == _TOO_DEEP
                messages.append(_BAD_NESTING if too_deep else self._decode_object(data[at:end]))
                at = end

    def _skip(self, data: bytes, at: int) -> int:
        """Return the index after the newline that ends bad text, or the end of the data."""
        newline = data.find(b"\n", at)
        end = len(data) if newline < 0 else newline + 1
        self._skipped += end - at
        self.broken = self._skipped > self._size_max
        if self._line is not None:
            self._line += data[at : min(end, at + _LIKE_HTTP_BYTES - len(self._line))]
            self.broken |= _LIKE_HTTP.match(self._line) is not None
        if newline >= 0:
            self.skipping, self._skipped = False, 0
        if newline >= 0 or self.broken:
            self._line = None
        return end

    def _end_of_object(self, data: bytes, at: int) -> tuple[int, int]:
        """Return what was found of the object that begins at `at`, and the index up to which.

        Goes on from where the last call for the same object stopped, so that a message which comes
        a byte at a time is searched once, not once a byte.
        """
        scan = self._scan
        position = at + scan.done
        while True:
            found = (_INSIDE_STRING if scan.in_string else _OUTSIDE_STRING).search(data, position)
            if found is None:
                scan.done = len(data) - at
                return _INCOMPLETE, len(data)
            position = found.end()
            mark = found[0]
            if mark == b"\n":
                self._scan = _Scan()
                return _CUT_SHORT, position - 1
            if mark == b'"':
                scan.in_string = not scan.in_string
            elif mark == b"\\":
                if position == len(data):  # what it escapes is not here yet: look again
                    scan.done = position - 1 - at
                    return _INCOMPLETE, position
                if data[position] != ord("\n"):
                    position += 1
            elif scan.nest(mark):
                self._scan = _Scan()
                return _COMPLETE if scan.deepest <= NESTING_MAX else _TOO_DEEP, position

    def _forget(self) -> None:
        if self._buffer:
            self._buffer = b""
            self._scan = _Scan()

    def _decode_object(self, text: bytes) -> _Message | Bad:
        """Decode one complete object; where it is not JSON, what follows it is skipped."""
        try:
            text.decode()
            try:
                message = self._decode_known(text)
                if b"\\u0000" in text:
                    refuse_nul(message)
                return message
            except msgspec.ValidationError as error:
                return explain(text, error)
        except UnicodeDecodeError:
            self.skipping = True
            return Bad("The text is not valid UTF-8.")
        except msgspec.DecodeError:
            try:
                json.loads(text)  # takes lone surrogates and NaN, which msgspec does not
            except ValueError:
                self.skipping = True
                return Bad("The text is not JSON.")
            return Bad("The message holds a value that is not allowed, such as a lone surrogate.")

    def _decode_known(self, text: bytes) -> _Message:
        """Decode an object; what its command does not know is ignored, unless it looks known."""
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            return self._decoder.decode(without_extras(text, error))


def request_reader(message_size_max: int) -> Reader[Request]:
    """Return a reader for the service's side of a connection."""
    return Reader(request_decoder, message_size_max)


def reply_reader(message_size_max: int) -> Reader[Reply]:
    """Return a reader for the client's side of a connection."""
    return Reader(_REPLIES, message_size_max)


request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_REPLIES: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
