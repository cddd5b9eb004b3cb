"""Where the service is: the one place that reads a `pwserver://` URL.

Used by the clients. It knows how a URL is written, and neither connects nor resolves names. Its
errors never repeat the URL, which people may have put a secret into.
"""

import re
from dataclasses import dataclass

from pwserver.config import Address, ClientSettings
from pwserver.errors import ConfigError

DEFAULT_URL = ClientSettings().service_url

_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<ipv6>[^\[\]\s]*:[^\[\]\s]*)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class ServiceUrl:
    """A `pwserver://` URL, taken apart."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(url: str) -> ServiceUrl:
    """Return what a URL such as `pwserver://127.0.0.1:12345` names, or raise `ConfigError`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() != "pwserver":
        raise ConfigError(f"the URL must begin with pwserver://, as {DEFAULT_URL} does.")
    if "@" in rest:
        raise ConfigError("the URL names a user; write only the host and the port.")
    if re.search(r"[/?#]", rest):
        raise ConfigError("the URL goes on behind the host and the port; nothing may follow them.")
    found = _HOST_AND_PORT.fullmatch(rest)
    if found is None:
        raise ConfigError(f"the URL must be a host and a port, as {DEFAULT_URL} is.")
    port = int(found["port"] or Address.port)
    if not 1 <= port <= 65535:
        raise ConfigError(f"the URL has the port {port}; it must be from 1 to 65535.")
    return ServiceUrl(found["ipv6"] or found["host"], port)
