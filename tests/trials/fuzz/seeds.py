"""What the fuzzers begin with: what is known to be hostile, and a message of each kind.

The corpus that is kept has grown from these, but only what reaches something new is in it; here
stands what must be tried for its own sake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.trials.fuzz.commands import LATER, TOGETHER
from tests.trials.fuzz.in_process import TOKENS
from tests.trials.fuzz.words import NAMES, PASSWORDS, WRONG, first_name

DEEP = 2000


def request(message: str, **fields: Any) -> bytes:
    """Return a message as a line."""
    return json.dumps({"message": message, **fields}).encode() + b"\n"


def save(value: bytes) -> bytes:
    """Return a save whose password is some JSON."""
    return b'{"message": "save_password", "password": %s}\n' % value


HOSTILE = (
    b"",
    b"\0",
    b"\n\r\n \t\n",
    b"\xff\xfe" + '{"message": "ping"}'.encode("utf-16-le"),
    '{"message": "ping"}\n'.encode("utf-16-be"),
    '{"message": "ping"}\n'.encode("utf-32"),
    b'\xef\xbb\xbf{"message": "ping"}\n',
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b'POST / HTTP/1.1\r\nContent-Length: 19\r\n\r\n{"message": "ping"}',
    b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(range(32)) + b" \x00\x08\x13\x02",
    b"*1\r\n$4\r\nPING\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"[" * DEEP,
    b"{" * DEEP,
    b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    b'{"message": "ping", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}\n",
    b'{"message": "ping", "x": ' + b"[" * 63 + b"]" * 63 + b"}\n",
    b'{"message": "ping", "id": ' + b"9" * 3000 + b"}\n",
    b'{"message": "ping", "id": -0}\n{"message": "ping", "id": 1e999}\n',
    b'{"message": "ping", "x": ' + b"1" * 3000 + b"e-" + b"9" * 500 + b"}\n",
    b'{"message": "ping", "message": "status"}\n',
    b'{"message": "save_password", "password": "0ne pass", "password": "tw0 pass"}\n',
    b'{"message": "what", "id": 1, "id": [2]}\n',
    *(save(value) for value in (b"NaN", b"-Infinity", b'"\\ud800"', b'"\\udc00\\ud800"')),
    *(save(value) for value in (b'"\\u0000"', b'"a\0b"', b'"\xed\xa0\x80"', b'"\xc0\xaf"')),
    save(b'"%s"' % (b"x" * 5000)),
    save(b'"cut sh0rt')[:-2] + b'\n{"message": "ping"}\n',
    b'{"message": "ping"}{"message": "ping"}\x0b{"message": "ping"}\n{"message": "ping"}\n',
)
"""What strangers, other protocols and those who mean harm send."""

LIFE = b"".join(
    (
        request("save_password", password=PASSWORDS[1]),
        request("save_password", password=PASSWORDS[2], username="a", labels=["x"], id=1),
        request("save_password", password=PASSWORDS[3], username="a", request_id="r"),
        request("save_password", password=PASSWORDS[3], username="a", request_id="r"),
        request("save_password", password=PASSWORDS[1], username="a", request_id="r"),
        request("generate_password", username="b", length=8, alphabet="ab", request_id="s"),
        request("generate_password", username="b", length=8, alphabet="ab", request_id="s"),
        request("save_password", password=PASSWORDS[2], username="b", if_version=1),
        request("save_password", password=PASSWORDS[2], username="b", if_version=1),
        request("generate_password"),
        request("number_of_users"),
        request("save_password", password=PASSWORDS[3], request_id="t"),
        request("get_password", username="a", version=1),
        request("get_password", username=first_name()),
        request("verify_password", username="a", password=PASSWORDS[3]),
        request("password_history", username="a"),
        request("restore_password", username="a", version=1),
        request("restore_password", username="a", version=9),
        request("label_user", username="a", labels=["y", "y"]),
        request("list_users", limit=1, label="y"),
        request("check_password", password=PASSWORDS[1]),
        request("status"),
        request("delete_user", username="a"),
        request("get_password", username="a"),
        request("authenticate", token=TOKENS["shop"]),
        request("list_users", after="", prefix="user-"),
        request("authenticate", token="n0body's"),
        request("ping", id="last"),
    )
)
"""A book from its first user on, and every command at least once."""


def seeds() -> Iterator[bytes]:
    """Yield what every fuzzer begins with."""
    yield from HOSTILE
    yield from LIFE.splitlines(keepends=True)
    yield LIFE
    yield LIFE.replace(b"\n", b"")
    guest = TOGETHER + TOGETHER
    yield LIFE + TOGETHER + LIFE + TOGETHER + LIFE
    yield TOGETHER.join([save(b'"%d"' % number) for number in range(30)])
    yield LATER.join(LIFE.splitlines(keepends=True))
    yield guest + request("save_password", password=PASSWORDS[1], request_id="r") * 2
    yield request("authenticate", token="n0body's") * 5 + request("ping")
    yield request("verify_password", username="a", password=PASSWORDS[1]) * 17
    yield b"".join(request("save_password", password="a", username=name) for name in NAMES * 3)
    for wrong in WRONG:
        yield request("label_user", username=wrong, labels=wrong)
        yield request("save_password", password="b", username=wrong, request_id=wrong)
