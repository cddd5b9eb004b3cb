"""The header by which a balancer says whose connection it passes on: PROXY protocol, version 2.

    12 bytes   the signature
     1 byte    the version (2) and the command: LOCAL or PROXY
     1 byte    the kind of the addresses
     2 bytes   how many bytes follow
     n bytes   the addresses and ports of client and balancer; then anything else, which is skipped

Version 1, a line of text, is refused: its end must be searched for, and it says no more. The source
is HAProxy's specification (doc/proxy-protocol.txt, section 2.2).

Does no input or output. Who may send a header is the matter of `awaited_headers`.
"""

import socket
import struct

from pwserver.config import host_in_url

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEADER_BYTES_MAX = 4096
"""The longest header. Addresses take 36 bytes; a balancer may add a client's certificate."""

NO_HEADER = "no PROXY header"
CUT_SHORT = "PROXY header cut short"
_VERSION_1 = "PROXY header of version 1, not 2"
_UNKNOWN = "unknown PROXY header"
_TOO_LONG = "PROXY header too long"
_TOO_SHORT = "PROXY header too short for its addresses"

_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_KINDS = {  # over TCP: IPv4 and IPv6
    0x11: (socket.AF_INET, struct.Struct("!4s4xH2x")),
    0x21: (socket.AF_INET6, struct.Struct("!16s16xH2x")),
}
_KINDS_WITHOUT_ADDRESS = (0x00, 0x31)  # not known to the balancer, and a Unix socket


class WrongHeader(Exception):
    """What was received is no header that can be used; the text is why."""


class ProxyHeader:
    """A header that is being received. Once no more bytes are `wanted`, it has the `address`."""

    def __init__(self) -> None:
        self._data = b""
        self.wanted = _FIXED.size
        """How many bytes to receive at most: those after them are no part of the header."""
        self.address = ""
        """The client's, as `shown_address` returns it; empty: that of the connection."""

    @property
    def begun(self) -> bool:
        """Whether anything was received."""
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        """Take some of the bytes that are wanted. Raises `WrongHeader`."""
        self._data += data
        self.wanted -= len(data)
        begins = self._data[: len(SIGNATURE)]
        if begins != SIGNATURE[: len(begins)]:
            raise WrongHeader(_VERSION_1 if begins.startswith(b"PROXY ") else NO_HEADER)
        if not self.wanted and len(self._data) == _FIXED.size:
            self.wanted = self._length()
        if not self.wanted and self._data[12] == _PROXY:
            self.address = self._client()

    def _length(self) -> int:
        """Return how many bytes follow, if all before them is right."""
        _, command, kind, length = _FIXED.unpack(self._data)
        if command not in (_LOCAL, _PROXY):
            raise WrongHeader(_UNKNOWN)
        if length > HEADER_BYTES_MAX - _FIXED.size:
            raise WrongHeader(_TOO_LONG)
        if command == _PROXY and kind not in _KINDS_WITHOUT_ADDRESS:
            if kind not in _KINDS:
                raise WrongHeader(_UNKNOWN)
            if length < _KINDS[kind][1].size:
                raise WrongHeader(_TOO_SHORT)
        return int(length)

    def _client(self) -> str:
        """Return the address of the client of a whole header."""
        kind = self._data[13]
        if kind not in _KINDS:
            return ""
        family, addresses = _KINDS[kind]
        host, port = addresses.unpack_from(self._data, _FIXED.size)
        return f"{host_in_url(socket.inet_ntop(family, host))}:{port}"
