"""The client library: what an application imports.

    from pwserver import Client

    with Client("pwserver://127.0.0.1:12345") as book:
        book.save_password("abc123", username="alice")
        book.get_password("alice").password

    Client("pwservers://book.example", token_file="/etc/app/token")  # with TLS, as an application

Needs nothing but the standard library and msgspec. What is sent is made in `commands`, what is sent
again is decided in `retry`, and over what it is sent is the business of `connections`; `Client`
puts them together. `AsyncClient` is its twin.
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
    """Return the method that does a command."""

    def do(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        outcomes: list[T | PwserverError] = self._run([make(*args, **kwargs)])
        return result_of(outcomes)

    commands.describe(do, make, "Client")
    return do


class Client(BaseClient):
    """The service, as the threads of an application share it.

    `url` says where it is: `pwserver://HOST:PORT`, `pwservers://` for TLS, or
    `pwserver+unix:///PATH`; where it is not given, the variable `PWSERVER_URL` says it. An
    application's token is read from `token_file`, or from the file that the variable
    `PWSERVER_TOKEN_FILE` names; it may also stand before an `@` in the URL. With TLS the service's
    certificate is checked, against the system's store or the authorities in `ca_file`, and the
    client shows `client_cert`, of which `client_key` is the key, if it is asked to. All these
    files (PEM) are read now, and what is wrong with them is a `ConfigError`. So is a token for
    another machine without TLS, unless `token_in_clear` says that it may be sent so.

    It keeps up to `connections_max` connections, made when needed; a thread waits while all are in
    use. `timeout_s` bounds every call as a whole, and every window of 256 calls of a pipeline; but
    how long the system takes to look up a host's name, before a connection is made, it decides
    itself (resolv.conf(5)).

    A call is tried up to `attempts_max` times where that can do no harm: reading changes nothing,
    and the service knows by its request id a save that it has done already. So a lost connection or
    a restart of the service goes unnoticed mostly. All methods may raise:

    - `Refused`: the service answered no. Its kinds are in `pwserver.errors`; `NotSaved` means that
      nothing was saved, `InvalidMessage` that it never can be, `Denied` that the token is not
      accepted, or that its application may not do this.
    - `ConnectionFailed`: there was no answer; nothing was changed. `TlsFailed`, a kind of it: nor
      will there be one before a certificate or the URL is put right.
    - `FateUnknown`, a kind of it: nor can anybody tell whether what was asked has been done.
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
        """Return an iterator over all such users in the order of their names, got page by page."""
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
        """Return a result or an error for each call; raise where none was answered."""
        exchange = RetriedCalls(calls, self._limits)
        while exchange.unfinished:
            try:
                self._pool.ask(exchange)
            except (ConnectionFailed, Denied) as error:
                time.sleep(exchange.failed(error))
        return exchange.results()
