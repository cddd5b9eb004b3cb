"""Both clients behind one face, for what must be the same with either."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pwserver import AsyncClient, Client

Work = Callable[[Any], Any]
"""What is done with a client: a call of one method."""

Use = Callable[..., list[Any]]
"""Does some work with a client of a URL and returns what came of each: `use(url, *works, **...)`"""


def use_client(url: str, *works: Work, **options: Any) -> list[Any]:
    """Do some work with a `Client`."""
    with Client(url, **options) as book:
        return [work(book) for work in works]


def use_async_client(url: str, *works: Work, **options: Any) -> list[Any]:
    """Do some work with an `AsyncClient`, in an event loop of its own."""

    async def main() -> list[Any]:
        async with AsyncClient(url, **options) as book:
            return [await work(book) for work in works]

    return asyncio.run(main())


with_both_clients = pytest.mark.parametrize(
    "use", [use_client, use_async_client], ids=["Client", "AsyncClient"]
)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *places: str) -> list[str]:
    """Have every name lead to some addresses, in this order; return where those asked for are."""
    looked_up: list[str] = []
    addresses = [(host, int(port)) for host, _, port in (each.partition(":") for each in places)]

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, address) for address in addresses]

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
    """Return what asks so often, in one pipeline."""

    def work(book: Any) -> Any:
        many = book.pipeline()
        for _ in range(number):
            many.ping()
        return many.execute()

    return work
