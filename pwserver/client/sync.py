"""The client library: what an application imports.

    from pwserver import Client

    with Client("pwserver://127.0.0.1:12345") as book:
        book.save_password("abc123", username="alice")
        book.get_password("alice").password

    Client("pwservers://book.example", token_file="/etc/app/token")  # with TLS, as an application

It needs nothing but the standard library and msgspec. `commands` makes the requests, `retry`
decides what is sent again, and `connections` has the connections; `Client` uses all three.
`AsyncClient` is the same for asyncio.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from pwserver.client import commands
from pwserver.client.access import BaseClient
from pwserver.client.commands import Call
from pwserver.client.connections import ConnectionPool
from pwserver.client.pipeline import Pipeline, result_of
from pwserver.client.results import User
from pwserver.client.retry import RetriedCalls
from pwserver.errors import ConnectionFailed, Denied, PwserverError

P = ParamSpec("P")
T = TypeVar("T")


def _does(make: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    """Return the method that runs a command."""

    def do(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        outcomes: list[T | PwserverError] = self._run([make(*args, **kwargs)])
        return result_of(outcomes)

    commands.describe(do, make, "Client")
    return do


class Client(BaseClient):
    """A connection pool to the service for the threads of an application.

    `url` is the address of the service: `pwserver://HOST:PORT`, `pwservers://` for TLS, or
    `pwserver+unix:///PATH`; the default is in the variable `PWSERVER_URL`. The client reads an
    application's token from `token_file`, or from the file that the variable `PWSERVER_TOKEN_FILE`
    names; the token may also stand before an `@` in the URL. With TLS the client checks the
    service's certificate, with the system's authorities or those in `ca_file`. It shows
    `client_cert`, whose key is `client_key`, if the service asks for a certificate. All these files
    (PEM) are read when the client is made; a file that cannot be used is a `ConfigError`. So is a
    token for another machine without TLS, unless `token_in_clear` allows it.

    It opens up to `connections_max` connections when they are needed; a thread waits while all are
    in use. `timeout_s` limits every call as a whole, and every window of 256 calls of a pipeline.
    It does not limit the lookup of a host name before a connection is made: the system decides how
    long that takes (resolv.conf(5)).

    A call is tried up to `attempts_max` times if that is safe: reading changes nothing, and the
    service recognises by its request id a save that it has done already. So an application seldom
    notices a lost connection or a restart of the service. All methods may raise:

    - `Refused`: the service answered no. Its subclasses are in `pwserver.errors`; `NotSaved` means
      that nothing was saved, `InvalidMessage` that this request never can succeed, `Denied` that
      the token is not accepted, or that its application may not do this.
    - `ConnectionFailed`: there was no answer, and nothing was changed. Its subclass `TlsFailed`
      needs another certificate or URL before there can be one.
    - `FateUnknown`, a subclass of `ConnectionFailed`: there was no answer, and the change may or
      may not have been made.
    """

    def _begin(self) -> None:
        self._pool = ConnectionPool(self._access, self._limits.connections_max)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def users(self, *, prefix: str = "", label: str | None = None) -> Iterator[User]:
        """Return an iterator over all such users in the order of their names, page by page."""
        after: str | None = ""
        while after is not None:
            page = self.list_users(after=after, prefix=prefix, label=label)
            yield from page.users
            after = page.after

    def pipeline(self) -> Pipeline:
        """Return a pipeline: many requests for the price of a few round trips."""
        return Pipeline(self._run)

    def close(self) -> None:
        """Close the connections. The next call makes a new one."""
        self._pool.close()

    def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Return a result or an error for each call; raise if none was answered."""
        exchange = RetriedCalls(calls, self._limits)
        while exchange.unfinished:
            try:
                self._pool.ask(exchange)
            except (ConnectionFailed, Denied) as error:
                time.sleep(exchange.failed(error))
        return exchange.results()
