"""Parameters in PostgreSQL's binary format, and arrays of them, one for each column of many rows.

Knows nothing of connections and statements.
"""

import struct
from collections.abc import Sequence

_HEAD = struct.Struct("!iiiii")  # dimensions, whether there are NULLs, type, length, first index
_EMPTY = struct.Struct("!iii")
_INT8 = struct.Struct("!iq")
_INT4 = struct.Struct("!ii")
_LENGTH = struct.Struct("!i")
_BYTEA, _BIGINT, _INT = 17, 20, 23  # object ids of types


def bigint(value: int) -> bytes:
    """Return a bigint."""
    return value.to_bytes(8, "big", signed=True)


def integer(value: int) -> bytes:
    """Return an int."""
    return value.to_bytes(4, "big", signed=True)


def bigints(values: Sequence[int]) -> bytes:
    """Return a bigint[]."""
    return _array(_BIGINT, [_INT8.pack(8, value) for value in values])


def integers(values: Sequence[int]) -> bytes:
    """Return an int[]."""
    return _array(_INT, [_INT4.pack(4, value) for value in values])


def byteas(values: Sequence[bytes]) -> bytes:
    """Return a bytea[]."""
    return _array(_BYTEA, [_LENGTH.pack(len(value)) + value for value in values])


def _array(type_id: int, elements: list[bytes]) -> bytes:
    if not elements:
        return _EMPTY.pack(0, 0, type_id)
    return _HEAD.pack(1, 0, type_id, len(elements), 1) + b"".join(elements)
