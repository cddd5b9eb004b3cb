"""The connections of an `AsyncClient`: as `connections`, by the same rules, with asyncio's streams.

An idle connection is not read by the event loop, so that whatever arrives on it meanwhile is seen
before it is used again.
"""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from pwserver.connections import RECEIVE_BYTES, all_in_use, reason, unreachable
from pwserver.errors import ConnectionFailed
from pwserver.exchange import Exchange
from pwserver.url import ServiceUrl


class Connection:
    """A connected pair of streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._transport = cast(asyncio.Transport, writer.transport)
        self._poll = select.poll()
        self._poll.register(writer.get_extra_info("socket"), select.POLLIN)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has arrived, not even the end, since the last reply."""
        return not self._writer.is_closing() and not self._poll.poll(0)

    async def ask(self, exchange: Exchange) -> None:
        """Send the requests of a window, and take replies until it is done."""
        self._transport.resume_reading()
        self._writer.write(exchange.request())
        try:
            async with asyncio.timeout(exchange.seconds_left):
                while exchange.awaiting:
                    exchange.take(await self._reader.read(RECEIVE_BYTES))
        except TimeoutError:
            raise ConnectionFailed("the service did not answer in time.") from None
        except OSError as error:
            raise ConnectionFailed(f"the connection was lost: {reason(error)}.") from None
        if self._transport.get_write_buffer_size():
            raise ConnectionFailed("the service did not take the whole request.")
        self._transport.pause_reading()

    def drop(self) -> None:
        """Close it at once, with whatever is unsent or under way."""
        self._transport.abort()

    async def close(self) -> None:
        """Close it in peace."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class ConnectionPool:
    """Connections to one service, shared by all tasks of an event loop."""

    def __init__(
        self, url: ServiceUrl, connections_max: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self._url = url
        self._connections_max = connections_max
        self._turns = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []  # the one used last is the last
        self._closed = False

    @asynccontextmanager
    async def connection(self, exchange: Exchange) -> AsyncIterator[Connection]:
        """Lend a connection, waiting for one up to the deadline of the exchange."""
        await self._begin_turn(exchange.seconds_left)
        try:
            connection = self._newest_idle() or await self._connect(exchange.seconds_left)
            try:
                yield connection
            except BaseException:  # cancelled, for one
                connection.drop()
                raise
            if self._closed:
                connection.drop()
            else:
                self._idle.append(connection)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close the connections; those in use as soon as they are not."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _begin_turn(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise all_in_use(self._connections_max) from None

    def _newest_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.drop()
        return None

    async def _connect(self, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                return Connection(*await asyncio.open_connection(self._url.host, self._url.port))
        except (OSError, UnicodeError) as error:
            raise unreachable(self._url, error) from None
