"""What a balancer does before it passes on a connection: PROXY headers (version 2), for tests.

They are made from HAProxy's specification, not from the code of the service.
"""

import ipaddress
import socket
import struct

from tests.support.harness import PATIENCE_S, Peer, Service

BALANCER, CLIENT = "127.0.0.9", "203.0.113.7"
"""Where the balancer of these tests is, and who it says its client is (RFC 5737)."""

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31


def header(command: int, kind: int, addresses: bytes = b"", more: bytes = b"") -> bytes:
    """Return a header; `more` follows the addresses, and counts as part of it."""
    block = addresses + more
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block)) + block


def header_of(host: str = CLIENT, port: int = 4711, more: bytes = b"") -> bytes:
    """Return the header that says who the client is."""
    address = ipaddress.ip_address(host)
    kind, ours = (TCP4, "192.0.2.1") if address.version == 4 else (TCP6, "2001:db8::99")
    both = address.packed + ipaddress.ip_address(ours).packed
    return header(PROXY, kind, both + struct.pack("!HH", port, 12345), more)


def extension(kind: int, value: bytes) -> bytes:
    """Return one of the parts that may follow the addresses: a type, a length, a value."""
    return struct.pack("!BH", kind, len(value)) + value


def connected_from(service: Service, host: str = BALANCER) -> socket.socket:
    """Return a connection to a service from a loopback address, with nothing sent yet."""
    connected = socket.create_connection(("127.0.0.1", service.port), PATIENCE_S, (host, 0))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def proxied_peer(service: Service, *sent: bytes, host: str = BALANCER) -> Peer:
    """Return a connection through the balancer, which has sent these bytes, each by itself."""
    connected = connected_from(service, host)
    for each in sent:
        connected.sendall(each)
    return Peer.over(connected)
