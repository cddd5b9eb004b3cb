"""What the service knows a client certificate by: the SHA-256 of its public key.

So a certificate that was renewed for the same key goes on to count, and another one does not,
whatever names an authority puts into it.
"""

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pwserver import trust
from pwserver.errors import ConfigError

_FILE_BYTES_MAX = 1024 * 1024


def key_hash(certificate: bytes) -> bytes:
    """Return the SHA-256 of the public key (SubjectPublicKeyInfo) of a certificate in DER form.

    Nothing (no bytes) for a key of a kind that is not known: it stands for nobody.
    """
    try:
        return _hash_of(x509.load_der_x509_certificate(certificate))
    except (ValueError, UnsupportedAlgorithm):
        return b""


def read_key_hash(path: str) -> bytes:
    """Return the same of the first certificate in a PEM file; raise `ConfigError`."""
    content = trust.read(path, "certificate", ConfigError, bytes_max=_FILE_BYTES_MAX)
    try:
        return _hash_of(x509.load_pem_x509_certificates(content)[0])
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"certificate {path} holds no certificate in PEM form whose key can be used."
        ) from None


def _hash_of(certificate: x509.Certificate) -> bytes:
    encoding, form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(certificate.public_key().public_bytes(encoding, form)).digest()
