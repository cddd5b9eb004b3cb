"""Any bytes, in any packets, as the readers of both sides take them.

The oracle is the reader itself, fed with one byte at a time: then no two bytes ever come together,
so that every message is found the slow way, brace by brace. Whatever else is done with the same
bytes (all at once, in packets, lines of many connections taken together) must say the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from pwserver.wire.framing import (
    Reader,
    decode_whole,
    reply_reader,
    request_decoder,
    request_reader,
)
from pwserver.wire.messages import Bad, Ping, Reply, Request

SMALL, USUAL = 64, 65_536
"""The greatest size of a message: one that any input may pass, and the service's own."""

SPLITS = 2
PACKETS_MAX = 6
ERROR_LENGTH_MAX = 120
PING = b'\n{"message": "ping"}\n'

NewReader = Callable[[int], Reader[Any]]
READERS: tuple[tuple[NewReader, Any, int], ...] = (
    (request_reader, Request, SMALL),
    (request_reader, Request, USUAL),
    (reply_reader, Reply, USUAL),
)


def check(data: bytes) -> None:
    """Raise an `AssertionError` where a reader breaks a promise, or whatever else it raises."""
    for new_reader, kind, limit in READERS:
        slowly, broken = read(new_reader(limit), one_by_one(data), limit)
        check_messages(slowly, kind, data)
        for packets in ([data], *splits(data)):
            assert read(new_reader(limit), packets, limit) == (slowly, broken), packets
        check_resumption(new_reader(limit), data)
    for limit in (SMALL, USUAL):
        check_whole(data, limit)
        check_together(data, limit)


def read(reader: Reader[Any], packets: Iterable[bytes], limit: int) -> tuple[list[Any], bool]:
    """Return what comes of some packets and their end, and whether the stream is broken."""
    messages = []
    for packet in packets:
        messages += reader.feed(packet)
        assert len(reader._buffer) <= limit, "more is kept than a message may have"
    messages += reader.end()
    assert not reader._buffer
    return messages, reader.broken


def one_by_one(data: bytes) -> list[bytes]:
    """Split into single bytes."""
    return [data[at : at + 1] for at in range(len(data))]


def splits(data: bytes) -> Iterable[list[bytes]]:
    """Yield packets: always the same for the same data, so that what is found is found again."""
    draw = random.Random(data)
    for _ in range(SPLITS):
        places = [draw.randint(0, len(data)) for _ in range(draw.randrange(PACKETS_MAX))]
        yield [data[a:b] for a, b in pairwise([0, *sorted(places), len(data)])]


def check_messages(messages: list[Any], kind: Any, data: bytes) -> None:
    """Check that all is read as messages or answered with a sentence, and nothing is passed over.

    A NUL in a text is refused wherever it stands, so no message holds one.
    """
    assert messages or not data.strip(b" \t\r\n"), "something came, and nothing is said of it"
    for message in messages:
        if not isinstance(message, Bad):
            assert isinstance(message, kind)
            texts = [getattr(message, name) for name in message.__struct_fields__]
            assert not any(isinstance(text, str) and "\0" in text for text in texts)
        elif message.error is not None:
            assert message.error.endswith((".", "?"))
            assert message.error.isprintable()
            assert len(message.error) <= ERROR_LENGTH_MAX


def check_resumption(reader: Reader[Any], data: bytes) -> None:
    """Check that the line behind anything is read as what it is, unless the stream is broken."""
    reader.feed(data)
    after = reader.feed(PING)
    if not reader.broken:
        last = after[-1]
        assert isinstance(last, Ping) or (isinstance(last, Reply) and last.message == "ping"), last
        assert not reader.unsettled


def check_whole(data: bytes, limit: int) -> None:
    """Check that what is decoded by one call is what the reader finds, message by message."""
    whole = decode_whole(request_decoder, data, limit)
    if whole is not None:
        assert read(request_reader(limit), one_by_one(data), limit) == (whole, False)


def check_together(data: bytes, limit: int) -> None:
    """Check that lines of many connections, decoded by one call, are what each is by itself."""
    lines = [line + b"\n" for line in data.split(b"\n") if line.endswith(b"}")]
    together = decode_whole(request_decoder, b"".join(lines), limit) if lines else None
    if together is not None and len(together) == len(lines):
        alone = [read(request_reader(limit), [line], limit)[0] for line in lines]
        assert alone == [[message] for message in together]
