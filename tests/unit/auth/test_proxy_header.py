"""The header of the PROXY protocol: what is understood, what is refused, and what is left alone."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.proxy import (
    LOCAL,
    PROXY,
    SIGNATURE,
    TCP4,
    TCP6,
    UDP4,
    UNIX,
    UNSPEC,
    extension,
    header,
    header_of,
)
from workers.auth.proxy_header import HEADER_BYTES_MAX, ProxyHeader, WrongHeader

EXTENSIONS = extension(0x04, b"\0" * 7) + extension(0x02, b"book.example") + extension(0xE0, b"x")
GOOD = [  # with the address that each of them says
    (header_of("203.0.113.7", 4711), "203.0.113.7:4711"),
    (header_of("203.0.113.7", 4711, EXTENSIONS), "203.0.113.7:4711"),
    (header_of("2001:db8::7", 65535), "[2001:db8::7]:65535"),
    (header_of("2001:db8::7", 1, EXTENSIONS), "[2001:db8::7]:1"),
    (header_of("::ffff:203.0.113.7", 1), "[::ffff:203.0.113.7]:1"),
    (header_of("127.0.0.1", 5), "127.0.0.1:5"),
    (header(LOCAL, UNSPEC), ""),
    (header(LOCAL, TCP4, b"\xcb\0\x71\7" * 3), ""),
    (header(LOCAL, 0x77, b"anything", EXTENSIONS), ""),
    (header(PROXY, UNSPEC), ""),
    (header(PROXY, UNSPEC, b"", EXTENSIONS), ""),
    (header(PROXY, UNIX, b"/a".ljust(216, b"\0")), ""),
    (header_of(more=b"x" * (HEADER_BYTES_MAX - 28)), "203.0.113.7:4711"),
]
WRONG = [
    (b'{"message": "ping"}\n', "no PROXY header"),
    (b"\x16\x03\x01\x02\x00\x01\x00", "no PROXY header"),
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 12345\r\n", "PROXY header of version 1, not 2"),
    (b"PROX", "no PROXY header"),
    (SIGNATURE[:11] + b"X", "no PROXY header"),
    (header(0x11, TCP4, bytes(12)), "unknown PROXY header"),
    (header(0x22, TCP4, bytes(12)), "unknown PROXY header"),
    (header(0x31, TCP4, bytes(12)), "unknown PROXY header"),
    (header(PROXY, UDP4, bytes(12)), "unknown PROXY header"),
    (header(PROXY, 0x01, bytes(12)), "unknown PROXY header"),
    (header(PROXY, TCP4, bytes(11)), "PROXY header too short for its addresses"),
    (header(PROXY, TCP6, bytes(35)), "PROXY header too short for its addresses"),
    (header(PROXY, TCP4), "PROXY header too short for its addresses"),
    (header_of(more=b"x" * (HEADER_BYTES_MAX - 27)), "PROXY header too long"),
    (header(LOCAL, UNSPEC, bytes(65535)), "PROXY header too long"),
]


def read(stream: bytes, sizes: list[int]) -> tuple[str | None, int]:
    """Feed a header as packets of these sizes bring it, then the rest as it is wanted.

    Return its address, or None if it is not complete, and how many bytes were taken.
    """
    reader, at = ProxyHeader(), 0
    for size in [*sizes, *[len(stream)] * 3]:
        if not reader.wanted or at == len(stream):
            break
        taken = stream[at : at + min(size, reader.wanted)]
        reader.feed(taken)
        at += len(taken)
    return (None if reader.wanted else reader.address), at


@given(
    st.sampled_from(GOOD),
    st.binary(max_size=40),
    st.lists(st.integers(min_value=1, max_value=40), max_size=40),
)
def test_a_header_is_read_however_it_was_split(
    case: tuple[bytes, str], after: bytes, sizes: list[int]
) -> None:
    """And not a byte of what comes after it."""
    sent, address = case
    assert read(sent + after, sizes) == (address, len(sent))


@pytest.mark.parametrize(("sent", "address"), GOOD, ids=range(len(GOOD)))
def test_a_header_that_is_cut_short_is_not_complete(sent: bytes, address: str) -> None:
    """At whichever byte: more is waited for."""
    for size in range(len(sent)):
        assert read(sent[:size], []) == (None, size)
        assert ProxyHeader().begun is False
    assert read(sent, [1] * len(sent)) == (address, len(sent))


@pytest.mark.parametrize(("sent", "reason"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_header_is_refused_with_the_reason(sent: bytes, reason: str) -> None:
    """As soon as it is certain: no more than the fixed part is waited for."""
    with pytest.raises(WrongHeader, match=f"^{reason}$"):
        read(sent, [])
    with pytest.raises(WrongHeader):
        read(sent, [1] * 16)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(SIGNATURE.__add__))
def test_garbage_is_refused_or_waits_for_more(sent: bytes) -> None:
    """Nothing but a refusal comes of it, and what is understood is within its bounds."""
    try:
        address, size = read(sent, [])
    except WrongHeader:
        return
    assert SIGNATURE.startswith(sent[:12])
    if address is not None:
        assert size == 16 + struct.unpack_from("!H", sent, 14)[0] <= HEADER_BYTES_MAX


@given(st.ip_addresses(), st.integers(min_value=0, max_value=65535))
def test_any_address_is_shown_as_one_that_was_accepted(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    """With brackets around an IPv6 address."""
    shown, _ = read(header_of(str(address), port), [])
    assert shown is not None
    host, _, its_port = shown.rpartition(":")
    assert ipaddress.ip_address(host.strip("[]")) == address
    assert (int(its_port), host.startswith("[")) == (port, address.version == 6)
