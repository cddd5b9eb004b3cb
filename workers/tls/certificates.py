"""The service's certificates as processes share them: the content of the files.

So all workers have the same certificates, and a worker that is started later reads no file.
"""

import marshal
import os
import ssl
from dataclasses import dataclass, field
from typing import BinaryIO

from pwserver import memory
from pwserver.secret import Secret

CRL_BEGINS = b"-----BEGIN X509 CRL-----"
"""How a certificate revocation list begins in PEM (RFC 7468, 6)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The content of the files, in PEM. The key may be in the certificates' file."""

    chain: bytes = field(repr=False)  # the service's certificate and those above it
    key: Secret[bytes]
    client_ca: bytes = field(repr=False)
    """The authorities of clients' certificates, and their revocation lists. Empty: clients are not
    asked for a certificate."""

    def to_descriptor(self) -> BinaryIO:
        """Return a file that is only in memory, for another process to read."""
        return memory.file_of(marshal.dumps((self.chain, self.key.reveal(), self.client_ca)))

    @classmethod
    def from_descriptor(cls, descriptor: int) -> "TlsFiles":
        """Read the certificates from `to_descriptor`'s file, and close the descriptor."""
        with os.fdopen(descriptor, "rb") as file:
            chain, key, client_ca = marshal.load(file)
        return cls(chain, Secret(key), client_ca)

    def without_keys(self) -> "TlsFiles":
        """Return the service's certificate alone, which is no secret."""
        return TlsFiles(self.chain, Secret(b""), b"")

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a context show the service's certificate from now on. Raises ssl.SSLError."""
        with memory.path_of(self.chain) as chain, memory.path_of(self.key.reveal()) as key:
            context.load_cert_chain(chain, key)

    def context(self) -> ssl.SSLContext:
        """Return the context that connections are encrypted with. Raises ssl.SSLError.

        It sends no session tickets: they would arrive when the client expects no data, and TLS 1.3
        is fast enough without them. `ssl` can read a key only from a file.

        If there is a revocation list, OpenSSL accepts no certificate of a client whose authority
        has none, or one that has expired.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        self.load_into(context)
        if self.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
            if CRL_BEGINS in self.client_ca:
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            with memory.path_of(self.client_ca) as client_ca:
                context.load_verify_locations(client_ca)
        return context
