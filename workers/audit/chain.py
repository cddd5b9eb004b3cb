"""The format of the audit record: its records, the keyed chain through them, and its head.

A record is one line of JSON. Its last member is its MAC: keyed BLAKE2b with 16 bytes over the MAC
of the record before and the bytes of the line up to `,"mac":`, which include the record's number.
So nobody without the key can write, edit or move a record, and a missing record breaks the chain at
the next one. A record that is the first of its file, or that follows something wrong, also has the
MAC of the record before in its member `previous`, so that it can be verified alone.

The head describes the end: the number and MAC of the last record, the file that it is in, and the
length of that file. It also has the number of the oldest record that must be there, and how many
records were lost because they could not be written. It has a MAC of its own, so somebody without
the key can restore an older head but cannot make one.

Works on bytes: knows no files and no locks.
"""

import struct
from binascii import hexlify, unhexlify
from hashlib import blake2b
from typing import NamedTuple

import msgspec

MAC_BYTES = 16
NO_MAC = bytes(MAC_BYTES)
"""The MAC before the very first record."""

LINE_BYTES_MAX = 8 * 1024
"""No record is longer, because `audit.record` shortens texts. So a window of fixed size holds the
last records of a file, and a reader keeps little at a time."""

_DIGITS_BEGIN, _DIGITS_END = -2 * MAC_BYTES - 2, -2
_BODY_END = _DIGITS_BEGIN - len(b',"mac":"')
"""The positions of the parts of a line, from its end."""

_HEAD = struct.Struct("<8sQ16sQQQQ")
_HEAD_TAG = b"pwaudit2"
HEAD_BYTES = _HEAD.size + MAC_BYTES


class Head(NamedTuple):
    """The end of the audit record after the last write, and what it lacks."""

    n: int  # number of the last record; 0 if there is none yet
    mac: bytes  # of the last record
    inode: int  # of the file that it is in
    size: int  # of that file, in bytes
    oldest: int  # number of the first record that must be there; 0 if somebody else decides that
    lost: int  # how many records could not be written since the last one


class Link(msgspec.Struct):
    """The members of a record that the chain needs."""

    n: int
    previous: str | None = None
    lost: int = 0


class ChainRecord(NamedTuple):
    """A record as the chain sees it, genuine or not."""

    body: bytes  # the line up to `,"mac":`
    mac: bytes
    n: int
    previous: bytes | None
    lost: int  # how many records are missing before it because they could not be written


_decode_link = msgspec.json.Decoder(Link).decode


class Chain:
    """Makes and checks MACs of records and heads. Neither its repr nor any error shows the key."""

    def __init__(self, key: bytes) -> None:
        self._record = blake2b(digest_size=MAC_BYTES, key=key, person=b"pwserver record")
        self._head = blake2b(digest_size=MAC_BYTES, key=key, person=b"pwserver head")

    def mac(self, before: bytes, body: bytes) -> bytes:
        """Return the MAC of the record with this body, after the record whose MAC is `before`."""
        state = self._record.copy()
        state.update(before + body)
        return state.digest()

    def pack_head(self, head: Head) -> bytes:
        """Return a head in the form in which it is stored, with its MAC."""
        content = _HEAD.pack(_HEAD_TAG, *head)
        return content + self._head_mac(content)

    def unpack_head(self, stored: bytes) -> Head | None:
        """Return a stored head, or None for bytes that are not a head made with this key."""
        content = stored[:-MAC_BYTES]
        if len(stored) != HEAD_BYTES or self._head_mac(content) != stored[-MAC_BYTES:]:
            return None
        return Head(*_HEAD.unpack(content)[1:])

    def _head_mac(self, content: bytes) -> bytes:
        state = self._head.copy()
        state.update(content)
        return state.digest()

    def last_record(self, window: bytes) -> tuple[int, bytes] | None:
        """Return the number and MAC of the last genuine record in the last bytes of a file.

        Skips lines after it that are not records. The first line may be cut short.
        """
        records = [parse_record(line) for line in window.split(b"\n")]
        for index in range(len(records) - 1, -1, -1):
            record, before = records[index], records[index - 1] if index else None
            if record is not None and (
                self.follows(record, record.previous) or self.follows(record, before and before.mac)
            ):
                return record.n, record.mac
        return None

    def follows(self, record: ChainRecord, mac: bytes | None) -> bool:
        """Tell whether a record is genuine and follows the record with this MAC."""
        return mac is not None and self.mac(mac, record.body) == record.mac


def format_record(body: bytes, mac: bytes) -> bytes:
    """Return the line of a record, with its newline."""
    return b'%b,"mac":"%b"}\n' % (body, hexlify(mac))


def parse_record(line: bytes) -> ChainRecord | None:
    """Return the record in a line (without its newline), or None if it is not a record.

    Only what `format_record` writes is a record: the same MAC in capitals is not one.
    """
    body = line[:_BODY_END]
    try:
        mac = unhexlify(line[_DIGITS_BEGIN:_DIGITS_END])
        if line != format_record(body, mac)[:-1]:
            return None
        link = _decode_link(line)
        previous = None if link.previous is None else bytes.fromhex(link.previous)
    except (ValueError, msgspec.DecodeError):
        return None
    return ChainRecord(body, mac, link.n, previous, link.lost)
