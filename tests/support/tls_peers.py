"""Clients that speak TLS, for tests: one as applications have it, and one that counts bytes."""

import contextlib
import socket
import ssl
from typing import Self

from tests.support.certificates import Authority, Issued
from tests.support.harness import PATIENCE_S, Peer, Service

PING = {"message": "ping"}
ALIVE = {"message": "Alive!"}


def tls_flags(issued: Issued) -> list[str]:
    """Return the flags of a service with a certificate."""
    return ["--tls-cert", str(issued.cert), "--tls-key", str(issued.key)]


def trusting(authority: Authority, issued: Issued | None = None) -> ssl.SSLContext:
    """Return what a client has that trusts an authority, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(authority.path))
    if issued is not None:
        context.load_cert_chain(issued.cert, issued.key)
    return context


def tls_peer(service: Service, context: ssl.SSLContext, host: str = "127.0.0.1") -> Peer:
    """Return a new connection over TLS, which notices an end without a close_notify."""
    connected = socket.create_connection((host, service.port), PATIENCE_S)
    return Peer.over(
        context.wrap_socket(connected, server_hostname="localhost", suppress_ragged_eofs=False)
    )


def serial_of(peer: Peer) -> int:
    """Return the serial number of the certificate that the service has shown."""
    assert isinstance(peer.socket, ssl.SSLSocket)
    certificate = peer.socket.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


class TlsByHand:
    """A client whose TLS is apart from its socket, so that a test can come between."""

    def __init__(self, service: Service, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._arrived = ssl.MemoryBIO()
        self._unsent = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._unsent, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hello(self) -> bytes:
        """Return what is to be sent first."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._unsent.read()

    def answer(self) -> bytes:
        """Take what the service sends; return what is to be sent to finish the handshake."""
        while True:
            try:
                self._tls.do_handshake()
                return self._unsent.read()
            except ssl.SSLWantReadError:
                self._arrived.write(self.socket.recv(65536))

    def records(self, text: bytes) -> bytes:
        """Return the records that say a text."""
        self._tls.write(text)
        return self._unsent.read()

    def farewell(self) -> bytes:
        """Return the record that says that nothing more comes (close_notify)."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._unsent.read()

    def shake_hands(self) -> None:
        """Do the whole handshake."""
        self.socket.sendall(self.hello())
        self.socket.sendall(self.answer())

    def read_to_the_end(self) -> bytes:
        """Return what the service says until it says that it has ended."""
        text = b""
        while True:
            try:
                more = self._tls.read(65536)
            except ssl.SSLWantReadError:
                data = self.socket.recv(65536)
                assert data, f"the connection ended without a close_notify after {text!r}"
                self._arrived.write(data)
            except ssl.SSLZeroReturnError:
                return text
            else:
                if not more:
                    return text
                text += more
