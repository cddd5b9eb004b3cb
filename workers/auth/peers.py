"""The client at the other end of a connection: its identity, address and limits.

The listener learns the address when it accepts the connection, or a balancer says it before
anything else. So it is known even if the client has reset the connection since.
"""

import contextlib
import functools
import pwd
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.networks import UNIX
from pwserver.wire import scram
from workers.auth.applications import GUEST, NO_GUEST, STRANGER, Caller
from workers.auth.throttle import APPLICATION, NAME, TOKENS, Limit, Throttle

_CREDENTIALS = struct.Struct("iII")  # process, user and group, as SO_PEERCRED gives them

_ELSEWHERE = "a balancer's loopback"
"""The origin of a client that has reached a balancer by a loopback address."""


class Peer:
    """The client at the other end of a connection. `caller` changes when it shows a token."""

    __slots__ = (
        "_address",
        "_throttle",
        "_uid",
        "caller",
        "counted",
        "exchange",
        "identifying",
        "proxied",
        "wrong_tokens",
    )

    def __init__(self, client: Accepted, throttle: Throttle, settings: Settings) -> None:
        self._throttle = throttle
        self._address = client.address
        self.proxied = client.proxied
        # The monitor brings clients of HTTP over a socket pair, with their addresses.
        unix = client.socket.family == socket.AF_UNIX and not client.address
        self._uid = process_and_user(client.socket)[1] if unix else None
        self.counted = 0  # the number of the application whose connections this one is among
        self.exchange: tuple[scram.Server, bytes] | None = None  # a proof begun, and whose it is
        self.identifying = False  # a token or certificate is being looked up
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

    @contextlib.contextmanager
    def being_identified(self) -> Iterator[None]:
        """Note meanwhile that nobody knows yet in whose name the next requests are."""
        self.identifying = True
        try:
            yield
        finally:
            self.identifying = False

    @property
    def is_guest(self) -> bool:
        """Whether it is a program of this machine without a token, guests being welcome or not."""
        return self.caller in (GUEST, NO_GUEST)

    @property
    def is_known(self) -> bool:
        """Whether the client has shown anything of a token or a certificate."""
        unknown = self.caller in (GUEST, NO_GUEST, STRANGER)
        return not unknown or self.exchange is not None

    @property
    def address(self) -> str:
        """The client's address and port, or `unix:` and the user's name."""
        if self._uid is not None and not self._address:
            self._address = f"unix:{_user_name(self._uid)}"
        return self._address

    @property
    def accepted_address(self) -> str:
        """The address as `Accepted` has it: empty for the client of a Unix socket."""
        return self._address if self._uid is None else ""

    @property
    def origin(self) -> str:
        """The client's IP address, or `unix`: what an application's networks are compared with.

        A loopback address that a balancer has said is of the balancer's machine, or of one before
        it: it is in no network.
        """
        if self._uid is not None:
            return UNIX
        return _ELSEWHERE if self.proxied and is_loopback(self._host) else self._host

    @property
    def share(self) -> str:
        """The machine that the client is on, or its user: all of them have one share of places."""
        return f"{UNIX}:{self._uid}" if self._uid is not None else _machine(self.origin)

    @property
    def authenticating(self) -> Limit:
        """The limit on wrong tokens from this address."""
        return self._throttle.limit((TOKENS, "", self._host))

    def verifying(self, name: str) -> Limit:
        """Return the limits on wrong passwords of this application: for a name, and for all.

        So wrong passwords for one name delay nobody who has another name or another application.
        The address says nothing about who guesses: it is that of the application, at which all
        people sign in.
        """
        application = self.caller.application or ""
        return self._throttle.limit((APPLICATION, application, ""), (NAME, application, name))

    @property
    def _host(self) -> str:
        return self.address if self._uid is not None else host_of(self.address)


def is_local(client: Accepted) -> bool:
    """Tell whether a client of TCP is on this machine: both ends of the connection are loopback.

    A kernel that was told to (`route_localnet`) delivers packets of other machines to a loopback
    address. The address that these come from is theirs. Whom the monitor or a balancer brings is
    never a guest.
    """
    if client.proxied or client.socket.family == socket.AF_UNIX:
        return False
    try:
        return is_loopback(client.socket.getsockname()[0]) and is_loopback(host_of(client.address))
    except OSError:
        return False


def host_of(address: str) -> str:
    """Return the host of an address with a port, as `shown_address` makes it."""
    return address.rpartition(":")[0].strip("[]")


@functools.lru_cache(maxsize=4096)
def _machine(host: str) -> str:
    """Return what stands for the machine that has an address.

    This machine has all loopback addresses, and as a rule one machine has all addresses of an IPv6
    network of 64 bits (RFC 6177).
    """
    if is_loopback(host):
        return "this machine"
    if ":" not in host:
        return host
    return str(ip_network((host.partition("%")[0], 64), strict=False))


@functools.lru_cache(maxsize=256)  # called with this machine's addresses: there are few
def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address, which may be IPv4 written as IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def process_and_user(connected: socket.socket) -> tuple[int, int]:
    """Return who is at the other end of a Unix socket: ids, as they were when it connected."""
    packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(packed)
    return process, user


@functools.lru_cache(maxsize=256)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
