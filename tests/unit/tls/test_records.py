"""The service's side of TLS alone, without sockets: bytes in any pieces, and broken ones."""

import atexit
import functools
import shutil
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwserver.secret import Secret
from tests.support.tls import Authority, Issued
from tests.support.wire import CUTS, brief, cut
from workers.tls.certificates import TlsFiles
from workers.tls.client_certificates import read_key_hash
from workers.tls.records import Codec

TEXTS = st.lists(st.binary(min_size=1, max_size=300) | st.just(bytes(40_000)), max_size=5)


@functools.cache
def authority() -> Authority:
    """Return the authority of this file's clients and services."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return Authority(folder)


@functools.cache
def service_context() -> ssl.SSLContext:
    """Return what the service has that asks for client certificates."""
    issued = authority().issue("localhost")
    ca = authority().path.read_bytes()
    return TlsFiles(issued.cert.read_bytes(), Secret(issued.key.read_bytes()), ca).context()


@dataclass
class Client:
    """The other side, which has done its part of a handshake with a codec."""

    issued: Issued | None = None
    arrived: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    unsent: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cafile=str(authority().path))
        if self.issued is not None:
            context.load_cert_chain(self.issued.cert, self.issued.key)
        self.tls = context.wrap_bio(self.arrived, self.unsent, server_hostname="localhost")
        self.codec = Codec(service_context())
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        assert not self.codec.shake(self.unsent.read())
        self.arrived.write(self.codec.unsent())
        self.tls.do_handshake()
        assert self.codec.shake(self.unsent.read())

    def records(self, texts: list[bytes]) -> bytes:
        """Return texts in a record each, or in several, and the end of what is said."""
        for text in texts:
            self.tls.write(text)
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.unsent.read()


@brief
@given(TEXTS, CUTS)
def test_records_may_come_in_any_pieces(texts: list[bytes], cuts: list[int]) -> None:
    """However records are split, the text is what was said, and it ends where that ended."""
    client = Client()
    packets = cut(client.records(texts), cuts)
    said = b""
    for packet in packets:
        assert not client.codec.ended
        said += client.codec.decrypt(packet)
    assert said == b"".join(texts)
    assert client.codec.ended


@brief
@given(TEXTS, CUTS, st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_changed_byte_is_never_taken_for_another_text(
    texts: list[bytes], cuts: list[int], position: int, change: int
) -> None:
    """With any byte altered, a part of the text comes at most, and never anything else."""
    client = Client()
    records = bytearray(client.records(texts))
    records[position % len(records)] ^= change
    said = b""
    for packet in cut(bytes(records), cuts):
        if not client.codec.ended:
            said += client.codec.decrypt(packet)
    assert b"".join(texts).startswith(said)
    assert client.codec.encrypt(b"reply") != b"reply"


@pytest.mark.parametrize("length", [1, 16_384, 16_385, 1_000_000])
def test_a_text_of_any_length_is_sent(length: int) -> None:
    """What is encrypted at once comes whole, and behind it the end, which is said once."""
    client = Client()
    client.arrived.write(client.codec.encrypt(bytes(length)) + client.codec.end())
    assert client.codec.end() == b""
    said = b""
    while text := client.tls.read(1 << 20):
        said += text
    assert said == bytes(length)


def test_a_certificate_is_known_by_its_public_key() -> None:
    """Whatever names it has; and there is none if the client shows no certificate."""
    shop, other = authority().issue("shop"), authority().issue("bank", also_named=["shop"])
    assert Client(shop).codec.peer_key_hash() == read_key_hash(str(shop.cert))
    assert Client(other).codec.peer_key_hash() == read_key_hash(str(other.cert))
    assert Client().codec.peer_key_hash() is None
