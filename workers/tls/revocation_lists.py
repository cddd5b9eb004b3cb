"""Checks the certificate revocation lists (CRLs) in the file of `tls_client_ca`.

OpenSSL does the verification itself. As soon as the file has one list, OpenSSL accepts no client of
an authority that has none. That is said here in one sentence, before it keeps anybody out.
"""

import datetime
import logging
import re
from collections.abc import Iterator

from cryptography import x509

from pwserver.errors import ConfigError
from workers.tls.certificates import CRL_BEGINS

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

log = logging.getLogger(__name__)


def check(path: str, content: bytes) -> None:
    """Raise `ConfigError` for a list that cannot be read, or an authority that has none.

    Authorities need no list if there is none at all. Logs a warning about an expired list.
    """
    lists = list(_lists(path, content))
    if len(lists) != content.count(CRL_BEGINS):
        raise ConfigError(f"tls_client_ca {path} has a revocation list without its last line.")
    if not lists:
        return
    issuers = {each.issuer for each in lists}
    for authority in x509.load_pem_x509_certificates(content):
        if authority.subject not in issuers:
            raise ConfigError(
                f"tls_client_ca {path} has a revocation list, but none of the authority "
                f"{authority.subject.rfc4514_string()}: none of its certificates would be "
                "accepted. Add its list, which may be empty."
            )
    now = datetime.datetime.now(datetime.UTC)
    for each in lists:
        ends = each.next_update_utc
        if ends is not None and ends < now:
            log.warning(
                "the revocation list of %s in tls_client_ca %s expired on %s: none of its "
                "certificates is accepted",
                each.issuer.rfc4514_string(),
                path,
                ends.date(),
            )


def _lists(path: str, content: bytes) -> Iterator[x509.CertificateRevocationList]:
    for found in _CRL.finditer(content):
        try:
            yield x509.load_pem_x509_crl(found[0])
        except ValueError:
            raise ConfigError(
                f"tls_client_ca {path} has a revocation list that cannot be read."
            ) from None
