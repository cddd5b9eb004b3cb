"""The users that the book's loads work on: their names and passwords, and what is said about them.

User number 0 and up is `name-000000-00` and up: 50 users share all but the last two digits, the
prefix that is listed. All requests have the same length. A user's password is made of its number
and is the same in every version, so that reading and comparing have one right answer. Users are
saved in a scattered order, as names come in real life; otherwise neighbours by name would be
neighbours in the table too, and a listing would be cheaper than it is.

The book's replies are compared as bytes, in the form in which the service writes them today.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from benchmarks.client.wire import Access, BenchmarkFailed, Control

GROUP_USERS = 50
USERS_MAX = 50_000_000
"""As many as names of this length can tell apart."""

VERIFIED_REPLY = b'{"message": "return_verify_password", "valid": true}'
LISTED_START = b'{"message":"return_users","users":['
LISTED_END = b'],"after":null}'
LISTED_USERNAME = b'"username":"'
_UNKNOWN_USER_REPLY = b'{"message":"Unknown user!"}'
_DENIED_REPLY_START = b'{"message":"Denied!",'

_SCATTER = 2_654_435_761
"""A prime (Knuth's, for multiplicative hashing), so that n * prime mod N visits every user once."""

_PAGE = 1000


def name_of(user: int) -> str:
    """Return the name of a prepared user."""
    return f"{prefix_of(user // GROUP_USERS)}{user % GROUP_USERS:02}"


def prefix_of(group: int) -> str:
    """Return what the names of a group begin with."""
    return f"name-{group:06}-"


def groups(users: int) -> int:
    """Return how many groups there are among so many users."""
    return math.ceil(users / GROUP_USERS)


def members(group: int, users: int) -> int:
    """Return how many of so many users are in a group."""
    return min(GROUP_USERS, users - group * GROUP_USERS)


def scattered(position: int, users: int) -> int:
    """Return which of so many users is the `position`th to be prepared."""
    return position * _SCATTER % users


def password_of(user: int) -> str:
    """Return a user's password, in each of its versions."""
    return f"{user:08}-Tr0ub4dor&3"


# --- Requests, and what their replies must be, or begin with. ---


def save_request(password: str, name: str) -> bytes:
    """Return a save under a name.

    Spelled out, as some are made while the clock runs; nothing in our texts needs an escape.
    """
    line = f'{{"message": "save_password", "username": "{name}", "password": "{password}"}}\n'
    return line.encode()


def saved_start(name: str) -> bytes:
    """Return what stands before the version in the reply to a named save."""
    return b'{"message":"Password saved!","username":"%b","version":' % name.encode()


def save_of(user: int) -> bytes:
    """Return a save of a prepared user: the first one, or one more version."""
    return save_request(password_of(user), name_of(user))


def get_request(user: int) -> bytes:
    """Return the question for a password."""
    return request("get_password", username=name_of(user))


def password_start(user: int) -> bytes:
    """Return what stands before the version in the reply to `get_password`."""
    shown = name_of(user).encode(), password_of(user).encode()
    return b'{"message":"return_password","username":"%b","password":"%b","version":' % shown


def verify_request(user: int) -> bytes:
    """Return the question whether a password, which is the right one, is right."""
    return request("verify_password", username=name_of(user), password=password_of(user))


def list_request(group: int) -> bytes:
    """Return the question for a group of users."""
    return request("list_users", prefix=prefix_of(group))


def request(message: str, **fields: str | int) -> bytes:
    """Return a request as a line."""
    return json.dumps({"message": message, **fields}).encode() + b"\n"


# --- Questions outside the load. ---


def knows_the_book(access: Access) -> bool:
    """Tell whether names can be read that way; asking changes nothing in a service."""
    return _asked_for_nobody(access) == _UNKNOWN_USER_REPLY


def wants_a_token(guest: Access) -> bool:
    """Tell whether the server has a book, but reads nothing out of it to guests."""
    return _asked_for_nobody(guest).startswith(_DENIED_REPLY_START)


def _asked_for_nobody(access: Access) -> bytes:
    with Control(access) as control:
        return control.ask(request("get_password", username="nobody"))


def listed(access: Access, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield all users whose names begin with `prefix`, as the server lists them, page by page."""
    after: str | None = ""
    with Control(access) as control:
        while after is not None:
            reply = control.ask(request("list_users", prefix=prefix, after=after, limit=_PAGE))
            try:
                page = json.loads(reply)
                yield from page["users"]
                after = page["after"]
            except (ValueError, KeyError):
                raise BenchmarkFailed(
                    f"expected a page of users, the server answered {reply[:200]!r}"
                ) from None


def versions_in(access: Access) -> int:
    """Return how many versions the prepared users have had, all together; each save made one."""
    return sum(user["version"] for user in listed(access, "name-"))
