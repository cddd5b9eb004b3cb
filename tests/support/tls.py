"""TLS in tests: a certificate authority, its certificates, and the clients that use them.

Certificates are PEM files. Give one to a service by `tls_flags`, and to a fake service by
`server_tls`. There are two clients: `tls_peer` is like an application's, and `TlsByHand` lets a
test handle the bytes between TLS and the socket.
"""

import contextlib
import datetime
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.harness import PATIENCE_S, Peer, Service

_AUTHORITY_DAYS = 3650
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key: the files, and the serial number that the other side sees."""

    cert: Path
    key: Path
    serial: int


class Authority:
    """Signs certificates. Its own one is in the file `path`; a folder may hold several."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.path = folder / f"authority-{next(_numbers)}.pem"
        builder = _builder(self._name, self._name, self._key, -_AUTHORITY_DAYS, _AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        self.path.write_bytes(self.pem)

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        *,
        days: float = 1,
        starts_days: float = -1,
        also_named: Sequence[str] = (),
    ) -> Issued:
        """Make a certificate for some hosts, for a server or a client, and its key.

        Its common name is `name`. It is valid from `starts_days` from now until `days` from now:
        with a negative `days` it has expired. `also_named` adds more common names.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        starts_days = min(starts_days, days - 1)
        builder = _builder(_named(name, *also_named), self._name, key, starts_days, days)
        for extension, critical in self._extensions(hosts, key):
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        number = next(_numbers)
        cert_path = self._folder / f"cert-{number}.pem"
        key_path = self._folder / f"key-{number}.pem"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Issued(cert_path, key_path, certificate.serial_number)

    def revocation_list(self, *revoked: Issued, days: float = 1) -> bytes:
        """Return a list (PEM) of revoked certificates; with a negative `days` it has expired."""
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=days)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(min(now, ends) - datetime.timedelta(days=1)).next_update(ends)
        for issued in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(issued.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _extensions(
        self, hosts: Sequence[str], key: ec.EllipticCurvePrivateKey
    ) -> list[tuple[x509.ExtensionType, bool]]:
        """Return the extensions of a certificate, and whether each is critical."""
        return [
            (x509.BasicConstraints(False, path_length=None), True),
            (x509.SubjectAlternativeName(list(map(_general_name, hosts))), False),
            (_usage(digital_signature=True), True),
            (
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                False,
            ),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ]


def _named(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(**true: bool) -> x509.KeyUsage:
    purposes = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{purpose: true.get(purpose, False) for purpose in purposes})


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    starts_days: float,
    days: float,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=starts_days))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


# --- Servers and clients. ---


def server_tls(issued: Issued, clients: Authority | None = None) -> ssl.SSLContext:
    """Return a service's TLS context; with `clients`, it demands their certificates too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    context.num_tickets = 0
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.path)
    return context


def tls_flags(issued: Issued) -> list[str]:
    """Return the flags of a service with a certificate."""
    return ["--tls-cert", str(issued.cert), "--tls-key", str(issued.key)]


def trusting(authority: Authority, issued: Issued | None = None) -> ssl.SSLContext:
    """Return the TLS context of a client that trusts an authority and may show a certificate."""
    context = ssl.create_default_context(cafile=str(authority.path))
    if issued is not None:
        context.load_cert_chain(issued.cert, issued.key)
    return context


def tls_peer(service: Service, context: ssl.SSLContext, host: str = "127.0.0.1") -> Peer:
    """Return a new TLS connection that raises an error at an end without a close_notify."""
    connected = socket.create_connection((host, service.port), PATIENCE_S)
    return Peer.over(
        context.wrap_socket(connected, server_hostname="localhost", suppress_ragged_eofs=False)
    )


def serial_of(peer: Peer) -> int:
    """Return the serial number of the service's certificate on this connection."""
    assert isinstance(peer.socket, ssl.SSLSocket)
    certificate = peer.socket.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


class TlsByHand:
    """A client whose TLS is separate from its socket, so that a test can handle the bytes."""

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
        """Return the first bytes to send."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._unsent.read()

    def answer(self) -> bytes:
        """Receive the service's part of the handshake; return the bytes that finish it."""
        while True:
            try:
                self._tls.do_handshake()
                return self._unsent.read()
            except ssl.SSLWantReadError:
                self._arrived.write(self.socket.recv(65536))

    def records(self, text: bytes) -> bytes:
        """Return the records of a text."""
        self._tls.write(text)
        return self._unsent.read()

    def farewell(self) -> bytes:
        """Return the record that ends the client's side (close_notify)."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._unsent.read()

    def shake_hands(self) -> None:
        """Do the whole handshake."""
        self.socket.sendall(self.hello())
        self.socket.sendall(self.answer())

    def read_to_the_end(self) -> bytes:
        """Return the text that the service sends before its close_notify."""
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
