"""A client's options: where the service is, who the client is, whom it trusts, and its limits.

They are read once, when a client is made, with all files. A file that cannot be used, or options
that do not fit together, are a `ConfigError` then.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pwserver.client.retry import Limits
from pwserver.client.round_trip import Authentication, authentication
from pwserver.client.url import DEFAULT_URL, ServiceUrl, parse
from pwserver.config import environment_variable
from pwserver.errors import ConfigError
from pwserver.secret import Secret
from pwserver.tokens import read_token

if TYPE_CHECKING:
    import ssl

    from pwserver.client.tls import Session

FileName = str | os.PathLike[str]

TOKEN_FILE_VARIABLE = environment_variable("token_file")
URL_VARIABLE = environment_variable("url")


@dataclass(frozen=True, slots=True)
class Access:
    """The URL, the token if there is one, and for TLS what is trusted."""

    url: ServiceUrl
    token: Secret[str] | None = None
    tls: "ssl.SSLContext | None" = None

    def session(self) -> "Session | None":
        """Return the TLS of a new connection, or None where there is none."""
        if self.tls is None:
            return None
        from pwserver.client.tls import Session  # noqa: PLC0415 - `ssl` takes time to import

        return Session(self.tls, self.url)

    def authentication(self, deadline: float) -> "Iterator[Authentication]":
        """Return the round trips that authenticate a new connection: none without a token."""
        if self.token is None:
            return iter(())
        in_clear = self.tls is None and not self.url.path
        return authentication(self.token, deadline, in_clear=in_clear)


def access_to(  # noqa: PLR0913 - as `BaseClient`
    url: str | None,
    *,
    token_file: FileName | None = None,
    ca_file: FileName | None = None,
    client_cert: FileName | None = None,
    client_key: FileName | None = None,
    token_in_clear: bool = False,
) -> Access:
    """Return the access that a client's options describe, or raise `ConfigError`.

    Without a URL it is the one in `PWSERVER_URL`; where that is empty, the service's usual address.
    An option that is empty is as one that is None, but for `token_file`: without it the file is
    used that `PWSERVER_TOKEN_FILE` names, where it is empty none. A token in the URL goes first.

    A token is not sent to another machine without TLS, unless `token_in_clear` says so.
    """
    where = parse(os.environ.get(URL_VARIABLE) or DEFAULT_URL if url is None else url)
    token = where.token or _token(token_file)
    if token is not None and not (where.is_private or token_in_clear):
        raise ConfigError(
            f"{where} is another machine, and without TLS anybody in between could read the token; "
            "use pwservers://, or set token_in_clear."
        )
    if not where.tls:
        for name, file in (("ca_file", ca_file), ("client_cert", client_cert or client_key)):
            if file:
                raise ConfigError(f"{name} is set, and the URL does not begin with pwservers://.")
        return Access(where, token)
    if bool(client_cert) != bool(client_key):
        raise ConfigError("client_cert and client_key belong together; one of them is not set.")
    from pwserver.client.tls import client_context  # noqa: PLC0415 - as above

    files = [os.fspath(file) if file else None for file in (ca_file, client_cert, client_key)]
    return Access(where, token, client_context(*files))


def _token(file: FileName | None) -> Secret[str] | None:
    if file is None:
        file = os.environ.get(TOKEN_FILE_VARIABLE, "")
    return read_token(file) if file else None


class BaseClient:
    """What both clients are made with."""

    def __init__(  # noqa: PLR0913 - each is a setting of the commands as well
        self,
        url: str | None = None,
        *,
        token_file: FileName | None = None,
        ca_file: FileName | None = None,
        client_cert: FileName | None = None,
        client_key: FileName | None = None,
        token_in_clear: bool = False,
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
            token_in_clear=token_in_clear,
        )
        self._begin()

    def _begin(self) -> None:
        """Make what the client of one kind has besides: its connections."""
