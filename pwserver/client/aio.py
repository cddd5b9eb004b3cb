"""The client for asyncio: the methods, parameters, results and errors of `Client`.

    async with AsyncClient("pwserver://127.0.0.1:12345") as book:
        await book.save_password("abc123", username="alice")

Only the input and output differ. The connections follow the rules in `connections`, with asyncio's
streams. The event loop does not read from an idle connection, so that the pool sees before the next
use whether something arrived meanwhile. asyncio's own TLS would go on reading, so the streams are
plain ones, and `tls` encrypts.
"""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

from pwserver.client import commands
from pwserver.client.access import Access, BaseClient
from pwserver.client.commands import Call
from pwserver.client.connection import RECEIVE_BYTES, reason, unreachable
from pwserver.client.connections import all_in_use
from pwserver.client.pipeline import AsyncPipeline, result_of
from pwserver.client.results import User
from pwserver.client.retry import RetriedCalls
from pwserver.client.round_trip import RoundTrip, seconds_until
from pwserver.client.url import ServiceUrl
from pwserver.errors import ConnectionFailed, Denied, PwserverError

if TYPE_CHECKING:
    from pwserver.client.tls import Session

P = ParamSpec("P")
T = TypeVar("T")

_NEXT_ADDRESS_S = 0.25
"""If an address of the service has not answered after this time, the next one is tried as well (RFC
8305, section 8): IPv6 may be broken on the way."""


def _does(
    make: Callable[P, Call[T]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """Return the method that runs a command."""

    async def do(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        outcomes: list[T | PwserverError] = await self._run([make(*args, **kwargs)])
        return result_of(outcomes)

    commands.describe(do, make, "AsyncClient")
    return do


class AsyncClient(BaseClient):
    """A connection pool to the service for the tasks of an event loop; see `Client`.

    It belongs to the event loop that uses it first, until it is closed there. A call that is
    cancelled may or may not have been done.
    """

    def _begin(self) -> None:
        self._pool: AioConnectionPool | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    save_password = _does(commands.save_password)
    get_password = _does(commands.get_password)
    verify_password = _does(commands.verify_password)
    password_history = _does(commands.password_history)
    restore_password = _does(commands.restore_password)
    label_user = _does(commands.label_user)
    list_users = _does(commands.list_users)
    delete_user = _does(commands.delete_user)
    generate_password = _does(commands.generate_password)
    check_password = _does(commands.check_password)
    number_of_users = _does(commands.number_of_users)
    ping = _does(commands.ping)
    status = _does(commands.status)

    async def users(self, *, prefix: str = "", label: str | None = None) -> AsyncIterator[User]:
        """Return an iterator over all such users in the order of their names, page by page."""
        after: str | None = ""
        while after is not None:
            page = await self.list_users(after=after, prefix=prefix, label=label)
            for user in page.users:
                yield user
            after = page.after

    def pipeline(self) -> AsyncPipeline:
        """Return a pipeline: many requests for the price of a few round trips."""
        return AsyncPipeline(self._run)

    async def close(self) -> None:
        """Close the connections. The next call opens a new one, in the loop that runs then."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Return a result or an error for each call; raise if none was answered."""
        exchange = RetriedCalls(calls, self._limits)
        while exchange.unfinished:
            try:
                async with self._pool_here().connection(exchange) as connection:
                    await connection.ask(exchange)
            except (ConnectionFailed, Denied) as error:
                await asyncio.sleep(exchange.failed(error))
        return exchange.results()

    def _pool_here(self) -> "AioConnectionPool":
        """Return the pool of the running loop.

        The pool of another loop cannot be used here, and must not be closed from here, least of all
        in a child after a fork. Its connections close when it is garbage collected.
        """
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            self._pool = AioConnectionPool(self._access, self._limits.connections_max, loop)
        return self._pool


# --- Its connections. ---


class AioConnection:
    """A connected pair of streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._transport = cast(asyncio.Transport, writer.transport)
        self._poll = select.poll()
        self._poll.register(writer.get_extra_info("socket"), select.POLLIN)
        self._session: Session | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has arrived since the last reply, not even the end of the connection."""
        return not self._writer.is_closing() and not self._poll.poll(0)

    async def greet(self, access: Access, deadline: float) -> None:
        """Do what comes before all requests: the TLS handshake and the authentication."""
        if (session := access.session()) is not None:
            handshake = session.handshake(deadline)
            while not session.is_ready:
                await self.ask(handshake)
            self._session = session
        for each in access.authentication(deadline):
            await self.ask(each)

    async def ask(self, round_trip: RoundTrip) -> None:
        """Send the request of a round trip, and pass it what arrives until it is complete."""
        self._transport.resume_reading()
        request = round_trip.request()
        self._writer.write(self._session.encrypt(request) if self._session else request)
        try:
            async with asyncio.timeout(round_trip.seconds_left):
                while round_trip.awaiting:
                    if (data := await self._receive()) is not None:
                        round_trip.take(data)
        except TimeoutError:
            raise ConnectionFailed("the service did not answer in time.") from None
        except OSError as error:
            raise ConnectionFailed(f"the connection was lost: {reason(error)}.") from None
        if self._transport.get_write_buffer_size():
            raise ConnectionFailed("the service did not take the whole request.")
        self._transport.pause_reading()

    async def _receive(self) -> bytes | None:
        data = await self._reader.read(RECEIVE_BYTES)
        return self._session.decrypt(data) if self._session else data

    def drop(self) -> None:
        """Close it at once; what is unsent is lost."""
        self._transport.abort()

    async def close(self) -> None:
        """Close it after all that is unsent has been sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class AioConnectionPool:
    """Connections to one service, shared by all tasks of an event loop."""

    def __init__(
        self, access: Access, connections_max: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.loop = loop
        self._access = access
        self._connections_max = connections_max
        self._turns = asyncio.Semaphore(connections_max)
        self._idle: list[AioConnection] = []  # the most recently used one is the last
        self._closed = False

    @asynccontextmanager
    async def connection(self, exchange: RetriedCalls) -> AsyncIterator[AioConnection]:
        """Provide a connection; wait for a free one up to the deadline of the exchange."""
        await self._begin_turn(exchange.seconds_left)
        try:
            connection = self._newest_idle() or await self._connect(exchange.deadline)
            try:
                yield connection
            except BaseException:  # such as a cancellation
                connection.drop()
                raise
            if self._closed:
                connection.drop()
            else:
                self._idle.append(connection)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close the idle connections now, and those in use after their use."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _begin_turn(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise all_in_use(self._connections_max) from None

    def _newest_idle(self) -> AioConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.drop()
        return None

    async def _connect(self, deadline: float) -> AioConnection:
        connection = AioConnection(*await _connected_streams(self._access.url, deadline))
        try:
            await connection.greet(self._access, deadline)
        except BaseException:
            connection.drop()
            raise
        return connection


async def _connected_streams(
    url: ServiceUrl, deadline: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(seconds_until(deadline)):
            if url.path:
                return await asyncio.open_unix_connection(url.path)
            return await asyncio.open_connection(
                url.host, url.port, happy_eyeballs_delay=_NEXT_ADDRESS_S
            )
    except (OSError, UnicodeError) as error:
        raise unreachable(url, error) from None
