"""What the audit record is made of: its lines, the keyed chain through them, and its head.

A record is one line of JSON, and the last member of it is its mac: keyed BLAKE2b with 16 bytes over
the mac of the record before and the bytes of the line up to `,"mac":`. The number of the record is
among those bytes. So without the key no line can be written, edited or moved, and one that is left
out is missed by the next. A record that must stand by itself, because it is the first of its file
or because something before it was amiss, has the mac before in its member `previous`.

The head says what the end must be: the number and the mac of the last record, and which file it is
in and how long that is. It has a mac of its own: who has no key can put an older head back, but
make none.

Bytes in, bytes out: knows no files and no locks.
"""

import struct
from binascii import hexlify, unhexlify
from hashlib import blake2b
from typing import NamedTuple

import msgspec

MAC_BYTES = 16
NO_MAC = bytes(MAC_BYTES)
"""Stands for the mac before the very first record."""

LINE_BYTES_MAX = 8 * 1024
"""No record is longer: `audit` shortens texts. So the last records of a file are found in a
window of a fixed size, and a reader keeps little at a time."""

_DIGITS_BEGIN, _DIGITS_END = -2 * MAC_BYTES - 2, -2
_BODY_END = _DIGITS_BEGIN - len(b',"mac":"')
"""Where the parts of a line are, from its end."""

_HEAD = struct.Struct("<8sQ16sQQ")
_HEAD_TAG = b"pwaudit1"
HEAD_BYTES = _HEAD.size + MAC_BYTES


class Head(NamedTuple):
    """The end of the record, as of the last write."""

    n: int  # of the last record; 0 where there is none yet
    mac: bytes  # of the last record
    inode: int  # of the file it is in
    size: int  # of that file, in bytes


class Link(msgspec.Struct):
    """What the chain needs to know of a record."""

    n: int
    previous: str | None = None


class Line(NamedTuple):
    """A line that has the form of a record, genuine or not."""

    body: bytes  # up to `,"mac":`
    mac: bytes
    n: int
    previous: bytes | None


_decode_link = msgspec.json.Decoder(Link).decode


class Chain:
    """The key's part: macs of records, and heads. Neither its repr nor any error shows the key."""

    def __init__(self, key: bytes) -> None:
        self._record = blake2b(digest_size=MAC_BYTES, key=key, person=b"pwserver record")
        self._head = blake2b(digest_size=MAC_BYTES, key=key, person=b"pwserver head")

    def mac(self, before: bytes, body: bytes) -> bytes:
        """Return the mac of a record whose line is `body`, behind one whose mac is `before`."""
        state = self._record.copy()
        state.update(before + body)
        return state.digest()

    def pack_head(self, head: Head) -> bytes:
        """Return a head as it is stored."""
        content = _HEAD.pack(_HEAD_TAG, *head)
        return content + self._head_mac(content)

    def unpack_head(self, stored: bytes) -> Head | None:
        """Return a stored head, or None for bytes that are none, or of another key."""
        content = stored[:-MAC_BYTES]
        if len(stored) != HEAD_BYTES or self._head_mac(content) != stored[-MAC_BYTES:]:
            return None
        return Head(*_HEAD.unpack(content)[1:])

    def _head_mac(self, content: bytes) -> bytes:
        state = self._head.copy()
        state.update(content)
        return state.digest()

    def last_record(self, window: bytes) -> tuple[int, bytes] | None:
        """Return number and mac of the last genuine record in the last bytes of a file.

        Lines behind it that are no records are passed over. The first line may be cut short.
        """
        lines = [read_line(line) for line in window.split(b"\n")]
        for at in range(len(lines) - 1, -1, -1):
            line, before = lines[at], lines[at - 1] if at else None
            if line is not None and (
                self.follows(line, line.previous) or self.follows(line, before and before.mac)
            ):
                return line.n, line.mac
        return None

    def follows(self, line: Line, mac: bytes | None) -> bool:
        """Tell whether a line is a genuine record behind one with this mac."""
        return mac is not None and self.mac(mac, line.body) == line.mac


def write_line(body: bytes, mac: bytes) -> bytes:
    """Return the line of a record, newline included."""
    return b'%b,"mac":"%b"}\n' % (body, hexlify(mac))


def read_line(line: bytes) -> Line | None:
    """Return the parts of a line (without its newline), or None for one that is no record.

    Exactly what `write_line` makes is a record: the same mac in capitals is none.
    """
    body = line[:_BODY_END]
    try:
        mac = unhexlify(line[_DIGITS_BEGIN:_DIGITS_END])
        if line != write_line(body, mac)[:-1]:
            return None
        link = _decode_link(line)
        previous = None if link.previous is None else bytes.fromhex(link.previous)
    except (ValueError, msgspec.DecodeError):
        return None
    return Line(body, mac, link.n, previous)
