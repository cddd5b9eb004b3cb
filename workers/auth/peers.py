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
from workers.auth.throttle import APPLICATION, NAME, TOKENS, Limit, Throttle

_CREDENTIALS = struct.Struct("3i")  # process, user and group, as SO_PEERCRED gives them


class Peer:
    """The client at the other end of a connection. `caller` changes when it shows a token."""

    __slots__ = ("_address", "_authenticating", "_socket", "_throttle", "_verifying", "caller")

    def __init__(self, connected: socket.socket, throttle: Throttle, *, insecure: bool) -> None:
        self._socket = connected
        self._throttle = throttle
        self._address: str | None = None
        self._authenticating: Limit | None = None
        self._verifying: Limit | None = None  # of the application
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
    def authenticating(self) -> Limit:
        """The limit on wrong tokens from this address."""
        if self._authenticating is None:
            self._authenticating = self._throttle.limit((TOKENS, "", self._host))
        return self._authenticating

    def verifying(self, name: str) -> Limit:
        """Return the limits on wrong passwords of this application: for a name, and for all.

        So wrong passwords for one name delay nobody who has another name or another application.
        The address says nothing about who guesses: it is that of the application, at which all
        people sign in.
        """
        application = self.caller.application or ""
        if self._verifying is None:
            self._verifying = self._throttle.limit((APPLICATION, application, ""))
        return self._verifying.and_also(self._throttle.limit((NAME, application, name)))

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
