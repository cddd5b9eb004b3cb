"""Certificates for tests: an authority of a test's own, and what it issues, as PEM files."""

import datetime
import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS = 3650
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key: the files, and what the other side sees of it."""

    cert: Path
    key: Path
    serial: int


class Authority:
    """Signs certificates. Its own one is in the file `path`; two of a folder are told apart."""

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
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        *,
        days: float = 1,
        starts_days: float = -1,
        also_named: Sequence[str] = (),
    ) -> Issued:
        """Make a certificate for some hosts, good for a server and for a client, and its key.

        Its common name is `name`. It is valid from `starts_days` from now until `days` from now:
        with a negative `days` it has expired. With `also_named` it has more common names than one.
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

    def _extensions(
        self, hosts: Sequence[str], key: ec.EllipticCurvePrivateKey
    ) -> list[tuple[x509.ExtensionType, bool]]:
        """Return what a certificate says besides the name, and what must be understood of it."""
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
