"""Packs the older versions of a user's password into one value of the user's row.

They are not rows of another table, because the cost of a save is the pages that it writes: so a
save under a known name writes one page and not two. The oldest version comes first, each as a head
of 24 bytes and the sealed password. Knows nothing of keys.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

_HEAD = struct.Struct(">QIQI")  # version, key_id, saved_at_ms, length of the sealed password


class OlderVersion(NamedTuple):
    """A version that is no longer the newest."""

    version: int
    key_id: int
    saved_at_ms: int
    sealed: bytes


def add(packed: bytes | None, replaced: OlderVersion, kept: int) -> bytes | None:
    """Add a version and return the last `kept` older versions, or None if there are none."""
    oldest = replaced.version - kept
    packed = packed or b""
    while packed:
        version, _, _, size = _HEAD.unpack_from(packed)
        if version > oldest:
            break
        packed = packed[_HEAD.size + size :]
    if kept:
        packed += _packed(replaced)
    return packed or None


def pack(versions: Iterable[OlderVersion]) -> bytes | None:
    """Pack older versions, given oldest first, into one value; None if there are none."""
    return b"".join(map(_packed, versions)) or None


def _packed(older: OlderVersion) -> bytes:
    version, key_id, saved_at_ms, sealed = older
    return _HEAD.pack(version, key_id, saved_at_ms, len(sealed)) + sealed


def unpack(packed: bytes | None) -> list[OlderVersion]:
    """Return the older versions, oldest first; raise `struct.error` if they were altered."""
    versions = []
    at, end = 0, len(packed or b"")
    while packed and at < end:
        version, key_id, saved_at_ms, size = _HEAD.unpack_from(packed, at)
        at += _HEAD.size + size
        versions.append(OlderVersion(version, key_id, saved_at_ms, packed[at - size : at]))
    return versions


def find(packed: bytes | None, version: int) -> OlderVersion | None:
    """Return one of the older versions, or None if it is not among them."""
    return next((each for each in unpack(packed) if each.version == version), None)
