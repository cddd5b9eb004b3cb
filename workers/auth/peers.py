"""The client at the other end of a connection: its identity, address and limits.

The listener learns the address when it accepts the connection. So it is known even if the client
has reset the connection since.
"""

import functools
import pwd
import socket
import struct
from ipaddress import ip_address
from typing import Any, NamedTuple

from pwserver.config import Settings, host_in_url
from workers.auth.applications import GUEST, NO_GUEST, STRANGER, Caller
from workers.auth.throttle import ADDRESS, APPLICATION, TOKENS, Limit, Throttle

_CREDENTIALS = struct.Struct("iII")  # process, user and group, as SO_PEERCRED gives them


class Accepted(NamedTuple):
    """A connection that was accepted, and its client's address as `shown_address` returns it."""

    socket: socket.socket
    address: str


class Peer:
    """The client at the other end of a connection. `caller` changes when it shows a token."""

    __slots__ = (
        "_address",
        "_authenticating",
        "_throttle",
        "_uid",
        "_verifying",
        "caller",
        "wrong_tokens",
    )

    def __init__(self, client: Accepted, throttle: Throttle, settings: Settings) -> None:
        self._throttle = throttle
        self._address = client.address
        self._uid = _uid(client.socket) if client.socket.family == socket.AF_UNIX else None
        self._authenticating: Limit | None = None
        self._verifying: Limit | None = None
        self.wrong_tokens = 0  # shown on this connection
        if settings.guests == "none":
            self.caller = NO_GUEST
        elif settings.insecure or self._uid is not None or is_local(client):
            self.caller = GUEST
        else:
            self.caller = STRANGER

    def become(self, caller: Caller) -> None:
        """Set the identity of this client."""
        self.caller = caller
        self._verifying = None

    @property
    def address(self) -> str:
        """The client's address and port, or `unix:` and the user's name."""
        if self._uid is not None and not self._address:
            self._address = f"unix:{_user_name(self._uid)}"
        return self._address

    @property
    def authenticating(self) -> Limit:
        """The limit on wrong tokens from this address."""
        if self._authenticating is None:
            self._authenticating = self._throttle.limit((TOKENS, "", self._host))
        return self._authenticating

    @property
    def verifying(self) -> Limit:
        """The limits on wrong passwords of this application, in all and from this address.

        So the wrong passwords of one application's users do not delay another application.
        """
        if self._verifying is None:
            name = self.caller.application or ""
            self._verifying = self._throttle.limit(
                (APPLICATION, name, ""), (ADDRESS, name, self._host)
            )
        return self._verifying

    @property
    def _host(self) -> str:
        return self.address if self._uid is not None else _host(self.address)


def shown_address(accepted: Any) -> str:
    """Return the address of a client as text, from what `accept` returns for it.

    It is empty for the client of a Unix socket, whose user `Peer` finds.
    """
    if not isinstance(accepted, tuple):
        return ""
    host, port = accepted[:2]
    return f"{host_in_url(host)}:{port}"


def is_local(client: Accepted) -> bool:
    """Tell whether a client of TCP is on this machine: both ends of the connection are loopback.

    A kernel that was told to (`route_localnet`) delivers packets of other machines to a loopback
    address. The address that these come from is theirs.
    """
    try:
        return is_loopback(client.socket.getsockname()[0]) and is_loopback(_host(client.address))
    except OSError:
        return False


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


@functools.lru_cache(maxsize=256)  # called with this machine's addresses: there are few
def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address, which may be IPv4 written as IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _uid(connected: socket.socket) -> int:
    """Return the user at the other end of a Unix socket, as it was when the client connected."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(packed)[1])


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
