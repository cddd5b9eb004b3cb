"""Both clients behind one interface, for tests that must pass with either; and every command.

A command holds the method's arguments, the request, the reply and the method's result.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from pwserver import (
    AsyncClient,
    Client,
    Generated,
    Page,
    Password,
    Saved,
    SavedVersion,
    Status,
    Strength,
    User,
)
from tests.support.fake_service import ALIVE, SAVED, SAVED_AS, TIME, Message

Work = Callable[[Any], Any]
"""A call of one method of a client."""

Use = Callable[..., list[Any]]
"""Does calls with a client of a URL and returns their results: `use(url, *works, **options)`."""


def use_client(url: str, *works: Work, **options: Any) -> list[Any]:
    """Do some calls with a `Client`."""
    with Client(url, **options) as book:
        return [work(book) for work in works]


def use_async_client(url: str, *works: Work, **options: Any) -> list[Any]:
    """Do some calls with an `AsyncClient`, in an event loop of its own."""

    async def main() -> list[Any]:
        async with AsyncClient(url, **options) as book:
            return [await work(book) for work in works]

    return asyncio.run(main())


with_both_clients = pytest.mark.parametrize(
    "use", [use_client, use_async_client], ids=["Client", "AsyncClient"]
)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Resolve every name to these addresses, in this order; return a list of the names asked."""
    looked_up: list[str] = []
    parsed = [(host, int(port)) for host, _, port in (each.partition(":") for each in addresses)]

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, address) for address in parsed]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def ping(book: Any) -> Any:
    """Ask whether the service is alive."""
    return book.ping()


def save(book: Any) -> Any:
    """Save a password."""
    return book.save_password("abc123")


def get(book: Any) -> Any:
    """Ask for a password."""
    return book.get_password("alice")


def delete(book: Any) -> Any:
    """Delete a user."""
    return book.delete_user("alice")


def pings(number: int) -> Work:
    """Return a call that pings this often in one pipeline."""

    def work(book: Any) -> Any:
        many = book.pipeline()
        for _ in range(number):
            many.ping()
        return many.execute()

    return work


# --- Every command. ---

AT = datetime(2026, 11, 22, 17, 20, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Command:
    """One use of a method. If `saves`, the request also has a `request_id`, left out here."""

    request: Message
    reply: Message
    result: Any
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    saves: bool = False

    @property
    def name(self) -> str:
        """The name of the method and of the message."""
        return str(self.request["message"])

    def check(self, sent: Message) -> None:
        """Check that what was sent is the request."""
        sent = dict(sent)
        assert ("request_id" in sent) == self.saves
        sent.pop("request_id", None)
        assert sent == self.request


ALICE = {"username": "alice"}
LISTED = {**ALICE, "labels": ["work"], "version": 2, "time_saved": TIME}
PARTS = {"worker 1": "running", "worker 2": "running"}

COMMANDS = [
    Command(
        {"message": "save_password", "password": "abc123"},
        SAVED,
        Saved(None, None),
        ("abc123",),
        saves=True,
    ),
    Command(
        {"message": "save_password", "password": "\N{SNOWMAN}", **ALICE, "labels": ["a", "b"]},
        SAVED_AS,
        Saved("alice", 1),
        ("\N{SNOWMAN}",),
        {**ALICE, "labels": ("a", "b")},
        saves=True,
    ),
    Command(
        {"message": "get_password", **ALICE},
        {"message": "return_password", **ALICE, "password": "x", "version": 2, "time_saved": TIME},
        Password("alice", "x", 2, AT),
        ("alice",),
    ),
    Command(
        {"message": "get_password", **ALICE, "version": 1},
        {"message": "return_password", **ALICE, "password": "w", "version": 1, "time_saved": TIME},
        Password("alice", "w", 1, AT),
        ("alice",),
        {"version": 1},
    ),
    Command(
        {"message": "verify_password", **ALICE, "password": "x"},
        {"message": "return_verify_password", "valid": False},
        False,
        ("alice", "x"),
    ),
    Command(
        {"message": "password_history", **ALICE},
        {
            "message": "return_password_history",
            **ALICE,
            "versions": [{"version": 2, "time_saved": TIME}, {"version": 1, "time_saved": TIME}],
        },
        [SavedVersion(2, AT), SavedVersion(1, AT)],
        ("alice",),
    ),
    Command(
        {"message": "restore_password", **ALICE, "version": 1},
        {"message": "Password restored!", **ALICE, "version": 3},
        Saved("alice", 3),
        ("alice", 1),
        saves=True,
    ),
    Command(
        {"message": "label_user", **ALICE, "labels": ["b", "a"]},
        {"message": "User labelled!", **ALICE, "labels": ["a", "b"]},
        ["a", "b"],
        ("alice", ["b", "a"]),
    ),
    Command(
        {"message": "list_users", "after": "", "prefix": ""},
        {"message": "return_users", "users": [LISTED], "after": None},
        Page([User("alice", ["work"], 2, AT)], None),
    ),
    Command(
        {"message": "list_users", "after": "a", "limit": 1, "prefix": "al", "label": "work"},
        {"message": "return_users", "users": [LISTED], "after": "alice"},
        Page([User("alice", ["work"], 2, AT)], "alice"),
        (),
        {"after": "a", "limit": 1, "prefix": "al", "label": "work"},
    ),
    Command(
        {"message": "delete_user", **ALICE},
        {"message": "User deleted!"},
        None,
        ("alice",),
    ),
    Command(
        {"message": "generate_password"},
        {"message": "return_generated_password", "password": "Zq"},
        Generated("Zq"),
    ),
    Command(
        {"message": "generate_password", "length": 4, "alphabet": "ab", **ALICE, "labels": []},
        {"message": "return_generated_password", "password": "abba", **ALICE, "version": 1},
        Generated("abba", "alice", 1),
        (),
        {"length": 4, "alphabet": "ab", **ALICE, "labels": []},
        saves=True,
    ),
    Command(
        {"message": "check_password", "password": "abc123"},
        {"message": "return_check_password", "strength": 0, "warning": "w", "suggestions": ["s"]},
        Strength(0, "w", ["s"]),
        ("abc123",),
    ),
    Command(
        {"message": "number_of_users"},
        {"message": "return_number_of_users", "number_of_users": 7},
        7,
    ),
    Command({"message": "ping"}, ALIVE, None),
    Command(
        {"message": "status"},
        {
            "message": "return_status",
            "number_of_users": 7,
            "workers": 2,
            "uptime_s": 1.5,
            "parts": PARTS,
        },
        Status(7, 2, 1.5, PARTS),
    ),
]

BY_NAME = {command.name: command for command in COMMANDS}
"""One use of each command, the one with more fields if there are two."""
