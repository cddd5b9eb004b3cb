"""The client at the other end of a connection: its identity, address and limits.

The address is looked up when it is first needed, because most connections never need it.
"""

import functools
import pwd
import socket
import struct
from ipaddress import ip_address

from pwserver.config import host_in_url
from workers.auth.applications import GUEST, STRANGER, Caller
from workers.auth.networks import UNIX
from workers.auth.throttle import ADDRESS, APPLICATION, TOKENS, Limit, Throttle

_CREDENTIALS = struct.Struct("3i")  # process, user and group, as SO_PEERCRED gives them


class Peer:
    """The client at the other end of a connection. `caller` changes when it shows a token."""

    __slots__ = (
        "_address",
        "_authenticating",
        "_socket",
        "_throttle",
        "_verifying",
        "caller",
        "counted",
    )

    def __init__(self, connected: socket.socket, throttle: Throttle, *, insecure: bool) -> None:
        self._socket = connected
        self._throttle = throttle
        self._address: str | None = None
        self._authenticating: Limit | None = None
        self._verifying: Limit | None = None
        self.counted = 0  # the number of the application whose connections this one is among
        self.caller = GUEST if insecure or is_local(connected) else STRANGER

    def become(self, caller: Caller) -> None:
        """Set the identity of this client."""
        self.caller = caller
        self._verifying = None

    @property
    def address(self) -> str:
        """The client's address and port, or `unix:` and the user's name."""
        if self._address is None:
            self._address = _address(self._socket)
        return self._address

    @property
    def origin(self) -> str:
        """The client's IP address, or `unix`: what an application's networks are compared with."""
        return UNIX if self._socket.family == socket.AF_UNIX else self._host

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
        if self._socket.family == socket.AF_UNIX:
            return self.address
        return self.address.rpartition(":")[0].strip("[]")


def is_local(connected: socket.socket) -> bool:
    """Tell whether a client is on this machine, by the service's own address in the connection."""
    if connected.family == socket.AF_UNIX:
        return True
    try:
        return is_loopback(connected.getsockname()[0])
    except OSError:
        return False


@functools.lru_cache(maxsize=256)  # called with this machine's addresses: there are few
def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address, which may be IPv4 written as IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _address(connected: socket.socket) -> str:
    try:
        if connected.family == socket.AF_UNIX:
            packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return f"unix:{_user_name(_CREDENTIALS.unpack(packed)[1])}"
        host, port = connected.getpeername()[:2]
    except OSError:
        return "gone"
    return f"{host_in_url(host)}:{port}"


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
