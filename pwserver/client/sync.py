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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from pwserver.client import commands
from pwserver.client.access import FileName, access_to
from pwserver.client.commands import Call
from pwserver.client.connections import ConnectionPool
from pwserver.client.pipeline import Pipeline
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


class Client:
    """The service, as the threads of an application share it.

    `url` says where it is: `pwserver://HOST:PORT`, `pwservers://` for TLS, or
    `pwserver+unix:///PATH`; where it is not given, the variable `PWSERVER_URL` says it. An
    application's token is read from `token_file`, or from the file that the variable
    `PWSERVER_TOKEN_FILE` names; it may also stand before an `@` in the URL. With TLS the service's
    certificate is checked, against the system's store or the authorities in `ca_file`, and the
    client shows `client_cert`, of which `client_key` is the key, if it is asked to. All these
    files (PEM) are read now, and what is wrong with them is a `ConfigError`.

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
        access = access_to(
            url,
            token_file=token_file,
            ca_file=ca_file,
            client_cert=client_cert,
            client_key=client_key,
        )
        self._pool = ConnectionPool(access, connections_max)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save_password(
        self,
        password: str,
        *,
        username: str | None = None,
        labels: Iterable[str] | None = None,
        if_version: int | None = None,
    ) -> Saved:
        """Save a password (1 to 4,096 characters); returns when it would survive a power loss.

        With a `username` it is the newest version of that user's; without, that of a new user.
        `labels` replace those that the user has. With `if_version` it is saved only over that
        version, and with 0 only as a new user; otherwise raises `VersionConflict`.
        """
        return self._do(
            commands.save_password(
                password, username=username, labels=labels, if_version=if_version
            )
        )

    def get_password(self, username: str, *, version: int | None = None) -> Password:
        """Return the newest password of a user, or an older version.

        Raises `UnknownUser` or `UnknownVersion`.
        """
        return self._do(commands.get_password(username, version=version))

    def verify_password(self, username: str, password: str) -> bool:
        """Return whether a password is the newest of a user; False where there is no such user."""
        return self._do(commands.verify_password(username, password))

    def password_history(self, username: str) -> list[SavedVersion]:
        """Return the versions that are kept of a user's password, the newest first."""
        return self._do(commands.password_history(username))

    def restore_password(self, username: str, version: int) -> Saved:
        """Save an older version of a password once more, as the newest."""
        return self._do(commands.restore_password(username, version))

    def label_user(self, username: str, labels: Iterable[str]) -> list[str]:
        """Set the labels of a user in place of those it has; return them as they are now."""
        return self._do(commands.label_user(username, labels))

    def list_users(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        prefix: str = "",
        label: str | None = None,
    ) -> Page:
        """Return a page of the users whose names begin with `prefix` and that have the `label`.

        The next page is that `after` what `Page.after` says; after the last one it is None.
        """
        return self._do(commands.list_users(after=after, limit=limit, prefix=prefix, label=label))

    def users(self, *, prefix: str = "", label: str | None = None) -> Iterator[User]:
        """Return an iterator over all such users in the order of their names, got page by page."""
        after: str | None = ""
        while after is not None:
            page = self.list_users(after=after, prefix=prefix, label=label)
            yield from page.users
            after = page.after

    def delete_user(self, username: str) -> None:
        """Delete a user with all versions of its password."""
        self._do(commands.delete_user(username))

    def generate_password(
        self,
        *,
        length: int | None = None,
        alphabet: str | None = None,
        username: str | None = None,
        labels: Iterable[str] | None = None,
        if_version: int | None = None,
    ) -> Generated:
        """Return a random password, saved as `save_password` does if there is a `username`."""
        return self._do(
            commands.generate_password(
                length=length,
                alphabet=alphabet,
                username=username,
                labels=labels,
                if_version=if_version,
            )
        )

    def check_password(self, password: str) -> Strength:
        """Return how strong a password is; it is not saved."""
        return self._do(commands.check_password(password))

    def number_of_users(self) -> int:
        """Return how many users there are. The service's console lists them."""
        return self._do(commands.number_of_users())

    def ping(self) -> None:
        """Return if the service is alive."""
        self._do(commands.ping())

    def status(self) -> Status:
        """Return how the service is doing."""
        return self._do(commands.status())

    def pipeline(self) -> Pipeline:
        """Return a pipeline: many requests for the price of a few round trips."""
        return Pipeline(self._run)

    def close(self) -> None:
        """Close the connections. The next call makes a new one."""
        self._pool.close()

    def _do(self, call: Call[T]) -> T:
        result: T | PwserverError = self._run([call])[0]
        if isinstance(result, PwserverError):
            raise result
        return result

    def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Return a result or an error for each call; raise where none was answered."""
        exchange = RetriedCalls(calls, self._limits)
        while exchange.unfinished:
            try:
                self._pool.ask(exchange)
            except (ConnectionFailed, Denied) as error:
                time.sleep(exchange.failed(error))
        return exchange.results()
