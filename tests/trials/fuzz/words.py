"""What the protocol's own structs say that a message may be made of: words, and whole messages.

The fuzzer has the words as its dictionary, and a mutator that puts whole messages together, most of
them such as can be done: left to itself it would try bytes until it had found every name.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from msgspec import structs

from pwserver.wire import messages
from pwserver.wire.messages import Message
from tests.trials.fuzz.commands import LATER, TOGETHER
from tests.trials.fuzz.in_process import NOW_MS, TOKENS
from workers.book.models import IdClock
from workers.book.names import generated_name

Draw = random.Random


def first_name() -> str:
    """Return the name of the first user that a service saves without one, by the fuzzers' clock."""
    clock = IdClock(1)
    clock.advance(NOW_MS * 1_000_000)
    return generated_name(clock.next())


NAMES = ("a", "b", "caf\xe9", "cafe\u0301", "user-", first_name(), "x" * 128)
PASSWORDS = ("a", "correct h0rse battery", "\N{SNOWMAN} \U0001f600 snow 1", "p4ssw0rd", "1" * 300)
TEXTS = ("", " a", "a\nb", "\u202eevil", "\u200b", "\0", "\ud800", "y" * 129, TOKENS["shop"])
NUMBERS = (0, 1, 2, 3, 4, 20, 256, 257, 1000, 2**53 - 1, 2**64, -1, 10**40)
VALUES: dict[str, tuple[Any, ...]] = {
    "password": PASSWORDS,
    "username": NAMES,
    "labels": ([], ["x"], ["x", "y", "x"], ["l" * 64] * 16),
    "label": ("x", "y"),
    "request_id": ("r", "s", "r" * 128),
    "version": (1, 2, 3),
    "if_version": (0, 1, 2),
    "after": ("", *NAMES),
    "prefix": ("", "a", "c", "user-"),
    "limit": (1, 2, 1000),
    "length": (4, 20, 256),
    "alphabet": ("ab", "aa", "\u0430\u0431", "0123456789"),
    "token": (*TOKENS.values(), "pwserver_" + "C3" * 21 + "C"),
    "scram": ("n,,n=abc,r=abc", "n,,n=,r=", "c=biws,r=abc,p=AAAA", "x" * 5000),
    "id": (1, "i", 10**40),
}
"""What each field of any request is drawn from; a field that is not here makes a test fail."""

WRONG: tuple[Any, ...] = (*TEXTS, *NUMBERS, None, True, 1.5, [], ["x"] * 17, [1], {}, float("nan"))
"""What no field, or hardly any, may be."""

SEPARATORS = (b"\n", b"\n", b"\n", b"", b"\r\n", TOGETHER, LATER)


def tag(kind: type[Message]) -> str:
    """Return what a message of some kind is called on the wire."""
    return str(kind.__struct_config__.tag)


def message(draw: Draw) -> bytes:
    """Return a message; in one of ten, one field is not as it should be."""
    kind = draw.choice(messages.REQUESTS)
    content = {"message": tag(kind)}
    for field in structs.fields(kind):
        if field.required or draw.random() < (0.2 if field.name == "id" else 0.4):
            content[field.name] = draw.choice(VALUES[field.name])
    if draw.random() < 0.1:
        content[draw.choice([*content])] = draw.choice(WRONG)
    return json.dumps(content, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")


def mutated(data: bytes, size_max: int, draw: Draw, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Return other bytes: changed here and there by `mutate`, or a message more, less or moved."""
    if draw.random() < 0.5:
        return mutate(data, size_max)
    parts = data.split(b"\n")
    at = draw.randrange(len(parts))
    step = draw.randrange(5)
    if step == 0:
        parts[at] = message(draw)
    elif step == 1:
        del parts[at]
    elif step == 2:
        other = draw.randrange(len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    elif step == 3:
        parts.insert(at, parts[draw.randrange(len(parts))])
    else:
        parts.insert(at, message(draw) + draw.choice(SEPARATORS) + message(draw))
    return b"\n".join(parts)[:size_max]


def dictionary() -> str:
    """Return the words as libFuzzer reads them, one a line."""
    fields = {field.name for kind in messages.REQUESTS for field in structs.fields(kind)}
    words = [f'"message": "{tag(kind)}"' for kind in messages.REQUESTS]
    words += [f'"{name}": ' for name in sorted(fields)]
    words += [json.dumps(value) for values in VALUES.values() for value in values]
    words += [json.dumps(value) for value in WRONG]
    words += ["{", "}", "[", "]", ", ", ": ", '\\"', "\\\\", "\\u", "\\ud83d\\ude00", "1e999"]
    raw = [word.encode() for word in words] + [TOGETHER, LATER, b"}\n{", b"\xed\xa0\x80", b"\xc0"]
    return "".join(f'"{_escaped(word)}"\n' for word in dict.fromkeys(raw) if len(word) <= 64)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
