"""Reads the service's certificates from the files that the settings name, and checks them.

The listener does this at the start and when it is told to reload them, so that an error is reported
there in one sentence. It passes the content to the workers as `certificates.TlsFiles`.
"""

import datetime
import logging
import os
import ssl
import stat

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from pwserver import trust
from pwserver.config import Settings
from pwserver.errors import ConfigError
from pwserver.secret import Secret
from workers.tls import revocation_lists
from workers.tls.certificates import TlsFiles

_FILE_BYTES_MAX = 1024 * 1024
"""More than any service's certificates take, or those of all public authorities together."""

_NOT_A_PAIR = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key that belongs to another certificate, also one of another kind."""

log = logging.getLogger(__name__)


def read(settings: Settings) -> TlsFiles:
    """Return the content of the files that the settings name; raise `ConfigError`.

    Logs a warning about an expired or not yet valid certificate, an expired revocation list and a
    key that everybody may read.
    """
    files = TlsFiles(
        chain=_content("tls_cert", settings.tls_cert),
        key=Secret(_content("tls_key", settings.tls_key, secret=True)),
        client_ca=_content("tls_client_ca", settings.tls_client_ca),
    )
    first = _first_certificate("tls_cert", settings.tls_cert, files.chain)
    _check_key(settings.tls_key, files.key)
    if settings.tls_client_ca:
        _first_certificate("tls_client_ca", settings.tls_client_ca, files.client_ca)
        revocation_lists.check(settings.tls_client_ca, files.client_ca)
    try:
        files.context()
    except ssl.SSLError as error:
        both = f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key}"
        if error.reason in _NOT_A_PAIR:
            raise ConfigError(f"{both} do not belong together.") from None
        reason = (error.reason or "no reason is given").replace("_", " ").lower()
        raise ConfigError(f"{both} cannot be used: {reason}.") from None
    _warn_of_dates(settings.tls_cert, first)
    return files


def _content(setting: str, path: str, *, secret: bool = False) -> bytes:
    """Return the content of the file that a setting names, or nothing if the setting is empty."""
    if not path:
        return b""
    content = trust.read(path, setting, ConfigError, bytes_max=_FILE_BYTES_MAX)
    if secret and os.stat(path).st_mode & stat.S_IROTH:
        log.warning("everybody on this machine may read tls_key %s: run chmod 600 on it", path)
    return content


def _first_certificate(setting: str, path: str, content: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        raise ConfigError(f"{setting} {path} holds no certificate in PEM form.") from None


def _check_key(path: str, key: Secret[bytes]) -> None:
    try:
        serialization.load_pem_private_key(key.reveal(), password=None)
    except TypeError:
        raise ConfigError(
            f"tls_key {path} is encrypted, and nobody is there to decrypt it; decrypt it once."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"tls_key {path} holds no private key in PEM form.") from None


def _warn_of_dates(path: str, certificate: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > ends:
        log.warning("the certificate in tls_cert %s expired on %s", path, ends.date())
    elif now < begins:
        log.warning("the certificate in tls_cert %s is not valid before %s", path, begins.date())
