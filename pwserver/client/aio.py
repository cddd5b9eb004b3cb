"""The twin of `Client` for asyncio: the same methods, parameters, results and errors.

    async with AsyncClient("pwserver://127.0.0.1:12345") as book:
        await book.save_password("abc123", username="alice")

Only how bytes are moved is different, and that is in `async_connections`. What the methods do is
said in `client`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Self, TypeVar

from pwserver.client import commands
from pwserver.client.access import FileName, access_to
from pwserver.client.aio_connections import AioConnectionPool
from pwserver.client.commands import Call
from pwserver.client.pipeline import AsyncPipeline
from pwserver.client.results import (
    Generated,
    Page,
    Password,
    Saved,
    SavedVersion,
    Status,
    Strength,
    User,
)
from pwserver.client.retry import Limits, RetriedCalls
from pwserver.errors import ConnectionFailed, Denied, PwserverError

T = TypeVar("T")


class AsyncClient:
    """The service, as the tasks of an event loop share it; otherwise a `Client`.

    It belongs to the loop that it is first used in, until it is closed there. A call that is
    cancelled may or may not have been done.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of the clients as well
        self,
        url: str | None = None,
        *,
        token_file: FileName | None = None,
        ca_file: FileName | None = None,
        client_cert: FileName | None = None,
        client_key: FileName | None = None,
        timeout_s: float = 10.0,
        connections_max: int = 8,
        attempts_max: int = 5,
    ) -> None:
        self._limits = Limits(timeout_s, connections_max, attempts_max)
        self._access = access_to(
            url,
            token_file=token_file,
            ca_file=ca_file,
            client_cert=client_cert,
            client_key=client_key,
        )
        self._pool: AioConnectionPool | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def save_password(
        self,
        password: str,
        *,
        username: str | None = None,
        labels: Iterable[str] | None = None,
        if_version: int | None = None,
    ) -> Saved:
        """Save a password (1 to 4,096 characters); returns when it would survive a power loss."""
        return await self._do(
            commands.save_password(
                password, username=username, labels=labels, if_version=if_version
            )
        )

    async def get_password(self, username: str, *, version: int | None = None) -> Password:
        """Return the newest password of a user, or an older version."""
        return await self._do(commands.get_password(username, version=version))

    async def verify_password(self, username: str, password: str) -> bool:
        """Return whether a password is the newest of a user."""
        return await self._do(commands.verify_password(username, password))

    async def password_history(self, username: str) -> list[SavedVersion]:
        """Return the versions that are kept of a user's password, the newest first."""
        return await self._do(commands.password_history(username))

    async def restore_password(self, username: str, version: int) -> Saved:
        """Save an older version of a password once more, as the newest."""
        return await self._do(commands.restore_password(username, version))

    async def label_user(self, username: str, labels: Iterable[str]) -> list[str]:
        """Set the labels of a user in place of those it has; return them as they are now."""
        return await self._do(commands.label_user(username, labels))

    async def list_users(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        prefix: str = "",
        label: str | None = None,
    ) -> Page:
        """Return a page of users."""
        return await self._do(
            commands.list_users(after=after, limit=limit, prefix=prefix, label=label)
        )

    async def users(self, *, prefix: str = "", label: str | None = None) -> AsyncIterator[User]:
        """Return an iterator over all such users in the order of their names, got page by page."""
        after: str | None = ""
        while after is not None:
            page = await self.list_users(after=after, prefix=prefix, label=label)
            for user in page.users:
                yield user
            after = page.after

    async def delete_user(self, username: str) -> None:
        """Delete a user with all versions of its password."""
        await self._do(commands.delete_user(username))

    async def generate_password(
        self,
        *,
        length: int | None = None,
        alphabet: str | None = None,
        username: str | None = None,
        labels: Iterable[str] | None = None,
        if_version: int | None = None,
    ) -> Generated:
        """Return a random password, saved as `save_password` does if there is a `username`."""
        return await self._do(
            commands.generate_password(
                length=length,
                alphabet=alphabet,
                username=username,
                labels=labels,
                if_version=if_version,
            )
        )

    async def check_password(self, password: str) -> Strength:
        """Return how strong a password is; it is not saved."""
        return await self._do(commands.check_password(password))

    async def number_of_users(self) -> int:
        """Return how many users there are. The service's console lists them."""
        return await self._do(commands.number_of_users())

    async def ping(self) -> None:
        """Return if the service is alive."""
        await self._do(commands.ping())

    async def status(self) -> Status:
        """Return how the service is doing."""
        return await self._do(commands.status())

    def pipeline(self) -> AsyncPipeline:
        """Return a pipeline: many requests for the price of a few round trips."""
        return AsyncPipeline(self._run)

    async def close(self) -> None:
        """Close the connections. The next call makes a new one, in whatever loop it is made."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _do(self, call: Call[T]) -> T:
        result: T | PwserverError = (await self._run([call]))[0]
        if isinstance(result, PwserverError):
            raise result
        return result

    async def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Return a result or an error for each call; raise where none was answered."""
        exchange = RetriedCalls(calls, self._limits)
        while exchange.unfinished:
            try:
                async with self._pool_here().connection(exchange) as connection:
                    await connection.ask(exchange)
            except (ConnectionFailed, Denied) as error:
                await asyncio.sleep(exchange.failed(error))
        return exchange.results()

    def _pool_here(self) -> AioConnectionPool:
        """Return the pool of the running loop.

        That of another loop is of no use here, nor to be touched from here, least of all in a child
        after a fork: its connections close when it is collected.
        """
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            self._pool = AioConnectionPool(self._access, self._limits.connections_max, loop)
        return self._pool
