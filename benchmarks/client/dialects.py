"""The exchanges of the basic contract in every protocol that a contender speaks.

A save and a count are all that the contenders have in common. In every protocol a reply is checked
as one line (`links.py`), so a dialect is the bytes of two requests and of two replies. `book.py`
has the exchanges of the book, which only pwserver has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

COUNT_REQUEST = b'{"message": "number_of_users"}\n'
SAVED_REPLY = b'{"message": "Password saved!"}'
COUNT_REPLY_START = b'{"message": "return_number_of_users", "number_of_users": '
COUNT_REPLY_END = b"}"

HTTP_SAVE_PATH = "/users"
HTTP_COUNT_PATH = "/users/number"
HTTP_SAVED = {"message": "Password saved!"}
"""The object that answers `POST /users`, and is written without blanks, as FastAPI and Flask do."""

HTTP_NUMBER = "number_of_users"
"""The one field of the object that answers `GET /users/number`."""

REDIS_KEY = "users"

POSTGRES_STATEMENTS = {
    "save": "INSERT INTO users (password, saved_at) VALUES ($1, now())",
    "count": "SELECT count(*) FROM users",
}
"""What a request names by its first word; the rest of its line is the parameter."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one protocol spells the contract's exchanges; replies are lines without their newline."""

    save_request: Callable[[str], bytes]
    """Spells a save. Our passwords need no escape in any of the protocols."""

    count_request: bytes

    saved_reply: bytes | None
    """The reply to every save, or None where a save is answered like a count, by the number."""

    count_start: bytes
    count_end: bytes
    """What stands before and behind the number of users."""

    def number_in(self, reply: bytes) -> int:
        """Return the number of users that a reply states; raise ValueError if it states none."""
        number = reply[len(self.count_start) : len(reply) - len(self.count_end)]
        framed = reply.startswith(self.count_start) and reply.endswith(self.count_end)
        if not (framed and number.isdigit()):
            raise ValueError(f"expected a number of users, the server answered {reply[:200]!r}")
        return int(number)


def save_line(password: str) -> bytes:
    """Return a save as the basic contract spells it."""
    return f'{{"message": "save_password", "password": "{password}"}}\n'.encode()


def redis_command(*words: str) -> bytes:
    """Spell a command of Redis: how many words, and each with its length before it."""
    spelled = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*{len(words)}\r\n{spelled}".encode()


def _http_post(password: str) -> bytes:
    body = json.dumps({"password": password})
    return (
        f"POST {HTTP_SAVE_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def http_body(document: object) -> bytes:
    """Return an object as the contenders that speak HTTP are to write it."""
    return json.dumps(document, separators=(",", ":")).encode()


DIALECTS = {
    "lines": Dialect(
        save_request=save_line,
        count_request=COUNT_REQUEST,
        saved_reply=SAVED_REPLY,
        count_start=COUNT_REPLY_START,
        count_end=COUNT_REPLY_END,
    ),
    "redis": Dialect(
        save_request=lambda password: redis_command("RPUSH", REDIS_KEY, password),
        count_request=redis_command("LLEN", REDIS_KEY),
        saved_reply=None,
        count_start=b":",
        count_end=b"\r",
    ),
    "http": Dialect(
        save_request=_http_post,
        count_request=f"GET {HTTP_COUNT_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        saved_reply=http_body(HTTP_SAVED),
        count_start=f'{{"{HTTP_NUMBER}":'.encode(),
        count_end=b"}",
    ),
    "postgres": Dialect(
        save_request=lambda password: f"save {password}\n".encode(),
        count_request=b"count\n",
        saved_reply=b"INSERT 0 1",
        count_start=b"",
        count_end=b"",
    ),
}
"""By the name that an `Access` has for it. Redis ends a reply with CR LF: the CR stays with it."""
