"""Where the service is: the one place that reads a service's URL.

    pwserver://[TOKEN@]HOST[:PORT]         over TCP, in the clear
    pwservers://[TOKEN@]HOST[:PORT]        over TCP, with TLS
    pwserver+unix://[TOKEN@]/PATH          over a Unix socket; the path is taken as it stands

The clients use it. It knows how a URL is written, and neither connects nor resolves names. Its
errors never repeat the URL, because it may have a secret in it.
"""

import ipaddress
import re
from dataclasses import dataclass

from pwserver.config import Address, ClientSettings, host_in_url
from pwserver.errors import ConfigError
from pwserver.secret import Secret
from pwserver.tokens import TOKEN_FORM, is_token

DEFAULT_URL = ClientSettings().service_url

_TCP, _TLS, _UNIX = "pwserver", "pwservers", "pwserver+unix"
_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<ipv6>[^\[\]\s]*:[^\[\]\s]*)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class ServiceUrl:
    """A URL, taken apart: host and port, or the path of a Unix socket. Its str has no token."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    token: Secret[str] | None = None

    @property
    def is_private(self) -> bool:
        """Whether nobody between the client and the service can read along.

        That is so with TLS, and on this machine: over a Unix socket, or at a loopback address.
        `localhost` is one (RFC 6761, 6.3); other names are not looked up.
        """
        if self.tls or self.path or self.host.lower().rstrip(".") == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    def __str__(self) -> str:
        return self.path or f"{host_in_url(self.host)}:{self.port}"


def parse(url: str) -> ServiceUrl:
    """Return what a URL such as `pwserver://127.0.0.1:12345` names, or raise `ConfigError`."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in (_TCP, _TLS, _UNIX):
        raise ConfigError(
            f"the URL must begin with {_TCP}://, {_TLS}:// or {_UNIX}://, as {DEFAULT_URL} does."
        )
    before, slash, behind = rest.partition("/")
    user, at, host = before.rpartition("@")
    token = _token(user) if at else None
    place = host + slash + behind
    if scheme == _UNIX:
        return ServiceUrl(path=_path(place), token=token)
    host, port = _host_and_port(place)
    return ServiceUrl(host, port, tls=scheme == _TLS, token=token)


def _token(user: str) -> Secret[str]:
    if ":" in user:
        raise ConfigError(
            "the URL has a user and a password before the @; only a token may stand there."
        )
    if not is_token(user):
        raise ConfigError(f"the URL has something else before the @ than a token: {TOKEN_FORM}.")
    return Secret(user)


def _path(place: str) -> str:
    if not place.startswith("/"):
        raise ConfigError(
            f"the URL must go on with a path behind {_UNIX}://, such as /run/pw.sock."
        )
    if "\0" in place:
        raise ConfigError("the URL has a NUL character in its path; give a file name.")
    return place


def _host_and_port(place: str) -> tuple[str, int]:
    if re.search(r"[/?#]", place):
        raise ConfigError("the URL goes on behind the host and the port; nothing may follow them.")
    found = _HOST_AND_PORT.fullmatch(place)
    if found is None:
        raise ConfigError(f"the URL must be a host and a port, as {DEFAULT_URL} is.")
    port = int(found["port"] or Address.port)
    if not 1 <= port <= 65535:
        raise ConfigError(f"the URL has the port {port}; it must be from 1 to 65535.")
    return found["ipv6"] or found["host"], port
