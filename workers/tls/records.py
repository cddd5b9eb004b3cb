"""Turns TLS records into text and text into records, without doing I/O.

One `Codec` belongs to one connection, which receives and sends the records itself. No other file
sees OpenSSL's errors: a broken `Codec` sets `ended` and returns no more text.
"""

import contextlib
import ssl

from workers.tls.client_certificates import key_hash

_RECORD_TEXT_BYTES_MAX = 16 * 1024
"""The most text in one record (RFC 8446, 5.1), so one `read` returns all of a record."""


class HandshakeFailed(Exception):
    """The client broke the TLS 1.3 protocol, or its certificate is not accepted."""


class Codec:
    """The service's side of one TLS connection."""

    __slots__ = ("_arrived", "_tls", "_told", "_unsent", "ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._arrived = ssl.MemoryBIO()
        self._unsent = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._unsent, server_side=True)
        self._told = False  # we have sent close_notify
        self.ended = False
        """Whether no more text will come: the client has ended TLS, or broken the protocol."""

    # --- The handshake. ---

    def shake(self, data: bytes) -> bool:
        """Process handshake data from the client; return whether the handshake is done.

        Afterwards there may be data to send (`unsent`), even after a `HandshakeFailed`: the alert
        that tells the client the reason.
        """
        self._arrived.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise HandshakeFailed from error
        return True

    def after_handshake(self) -> bytes:
        """Return the records that arrived after the handshake's; pass them to `decrypt`."""
        return self._arrived.read()

    def peer_key_hash(self) -> bytes | None:
        """Return the `key_hash` of the client's verified certificate, or None if it has none."""
        certificate = self._tls.getpeercert(binary_form=True)
        return None if certificate is None else key_hash(certificate)

    # --- The connection. ---

    def decrypt(self, data: bytes) -> bytes:
        """Return the text in the records that are complete; set `ended` after the last one."""
        self._arrived.write(data)
        try:
            text = self._tls.read(_RECORD_TEXT_BYTES_MAX)
        except ssl.SSLWantReadError:  # the record is incomplete
            return b""
        except ssl.SSLError:
            self.ended = True
            return b""
        if text and not self._arrived.pending:
            return text  # one record, which is the usual case
        return self._decrypt_all(text)

    def _decrypt_all(self, text: bytes) -> bytes:
        """Return a text together with the text of the records after it."""
        texts = [text]
        try:
            while text and self._arrived.pending:
                text = self._tls.read(_RECORD_TEXT_BYTES_MAX)
                texts.append(text)
            self.ended = not text
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.ended = True
        return b"".join(texts)

    def encrypt(self, text: bytes) -> bytes:
        """Return the records of a text for the client; nothing if TLS is broken."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.write(text)
        return self._unsent.read()

    def end(self) -> bytes:
        """Return the record that ends our side (close_notify), at the first call only."""
        if not self._told:
            self._told = True
            with contextlib.suppress(ssl.SSLError):  # the client has not ended its side, or broken
                self._tls.unwrap()
        return self.unsent()

    def unsent(self) -> bytes:
        """Return records that TLS itself has to send: handshake messages, alerts, key updates."""
        return self._unsent.read() if self._unsent.pending else b""
