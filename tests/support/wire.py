"""Helpers for tests of the wire protocol: reading streams, and Hypothesis strategies."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import UNSET, structs

from pwserver.wire import framing
from pwserver.wire.messages import (
    ALPHABET_LENGTH_MAX,
    GENERATED_LENGTH_MAX,
    GENERATED_LENGTH_MIN,
    ID_LENGTH_MAX,
    LABEL_LENGTH_MAX,
    PAGE_USERS_MAX,
    REQUESTS,
    SCRAM_LENGTH_MAX,
    TOKEN_LENGTH_MAX,
    USERNAME_LENGTH_MAX,
    VERSION_MAX,
    Message,
)

LIMIT = 65536

thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
brief = settings(thorough, max_examples=50)


class Outcome(NamedTuple):
    """The result of reading some packets."""

    messages: list[Any]
    broken: bool


def read(packets: Iterable[bytes], limit: int = LIMIT) -> Outcome:
    """Feed packets and then the end of the stream to a new reader."""
    reader = framing.request_reader(limit)
    messages = [message for packet in packets for message in reader.feed(packet)]
    return Outcome(messages + reader.end(), reader.broken)


def cut(stream: bytes, positions: Iterable[int]) -> list[bytes]:
    """Split a stream at some positions, taken modulo its length."""
    ends = sorted({position % (len(stream) + 1) for position in positions} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(ends)]


CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)
TEXTS = st.text(alphabet=st.sampled_from('{}[]",:\\/ab\n\r\té\u2028\U0001f600')) | st.text()
NO_NUL = TEXTS.filter(lambda text: "\0" not in text)
IDS = st.integers(-(10**40), 10**40) | NO_NUL.map(lambda text: text[:128])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
SOME_TEXT = NO_NUL.filter(bool)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "password": SOME_TEXT,
    "username": SOME_TEXT.map(lambda text: text[:USERNAME_LENGTH_MAX]),
    "labels": st.lists(SOME_TEXT.map(lambda text: text[:LABEL_LENGTH_MAX]), max_size=3),
    "label": SOME_TEXT.map(lambda text: text[:LABEL_LENGTH_MAX]),
    "request_id": SOME_TEXT.map(lambda text: text[:ID_LENGTH_MAX]),
    "version": st.integers(1, VERSION_MAX),
    "if_version": st.integers(0, VERSION_MAX),
    "after": NO_NUL.map(lambda text: text[:USERNAME_LENGTH_MAX]),
    "prefix": NO_NUL.map(lambda text: text[:USERNAME_LENGTH_MAX]),
    "limit": st.integers(1, PAGE_USERS_MAX),
    "length": st.integers(GENERATED_LENGTH_MIN, GENERATED_LENGTH_MAX),
    "alphabet": NO_NUL.map(lambda text: f"ab{text}"[:ALPHABET_LENGTH_MAX]),
    "token": SOME_TEXT.map(lambda text: text[:TOKEN_LENGTH_MAX]),
    "scram": SOME_TEXT.map(lambda text: text[:SCRAM_LENGTH_MAX]),
    "id": IDS,
}
"""A strategy for each field of any request; a missing field makes every test fail."""


def tag(kind: type[Message]) -> str:
    """Return the name of a kind of message on the wire."""
    return str(kind.__struct_config__.tag)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Message]:
    """Draw a message's text as a client may write it, and the message that it must be read as."""
    kind = draw(st.sampled_from(REQUESTS))
    fields = {}
    for field in structs.fields(kind):
        value = draw(FIELDS[field.name] if field.required else st.just(UNSET) | FIELDS[field.name])
        if value is not UNSET:
            fields[field.name] = value
    extras = draw(st.dictionaries(TEXTS.map("x".__add__), JSON, max_size=2))
    items = draw(st.permutations([("message", tag(kind)), *fields.items(), *extras.items()]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r: ")]))
    text = json.dumps(dict(items), ensure_ascii=draw(st.booleans()), separators=separators)
    return text.encode(), kind(**fields)
