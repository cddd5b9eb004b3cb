"""Networks as they are written, stored and compared: those of an application, and of balancers.

A client's origin is the IP address of its machine, or `unix` for the Unix socket. An IPv4 address
that is written as IPv6 is the IPv4 address, in an origin and in a network.
"""

import functools
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from pwserver.errors import ConfigError

UNIX = "unix"
"""The origin of whoever comes through the Unix socket, which has no address."""

NETWORKS_MAX = 64
"""Networks of one application. Each of them is looked at when a connection shows a token."""

_MAPPED_BITS = 96
"""The bits before the IPv4 address in an IPv6 address that stands for one (RFC 4291, 2.5.5.2)."""

Network = IPv4Network | IPv6Network


def stored(networks: Iterable[str]) -> str:
    """Return networks as an application's row holds them: each once, with spaces between them.

    `10.0.0.0/8`, `192.0.2.7`, `2001:db8::/32` and `unix` are networks; raises `ConfigError` for
    what is none.
    """
    texts = dict.fromkeys(each if each == UNIX else str(_parsed(each)) for each in networks)
    if len(texts) > NETWORKS_MAX:
        raise ConfigError(f"there are {len(texts)} networks; an application has {NETWORKS_MAX}.")
    return " ".join(texts)


def is_within(origin: str, networks: str) -> bool:
    """Tell whether an origin is in one of the stored networks; none at all means anywhere."""
    if not networks:
        return True
    if origin == UNIX:
        return UNIX in networks.split()
    try:
        address = ip_address(origin)
    except ValueError:  # the client is gone, and its address with it
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _networks(networks))


@functools.lru_cache(maxsize=256)
def _networks(networks: str) -> list[Network]:
    return [ip_network(each) for each in networks.split() if each != UNIX]


def _parsed(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no network: {error}. A network is such as 10.0.0.0/8, 192.0.2.7, "
            f"2001:db8::/32 or {UNIX}."
        ) from None
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))
    return network
