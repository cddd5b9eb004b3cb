"""TLS as bytes: records in, text out, and the reverse. Without any input or output.

One `Codec` belongs to one connection, which receives and sends the records itself. What OpenSSL
complains of stays in this file: a `Codec` that is broken says so, and says no more.
"""

import contextlib
import ssl

_RECORD_TEXT_BYTES_MAX = 16 * 1024
"""What one record holds (RFC 8446, 5.1), so one `read` takes all of it."""


class HandshakeFailed(Exception):
    """The client does not speak TLS 1.3 as it must, or has a certificate that is not accepted."""


class Codec:
    """The service's side of one TLS connection."""

    __slots__ = ("_arrived", "_tls", "_told", "_unsent", "ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._arrived = ssl.MemoryBIO()
        self._unsent = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._unsent, server_side=True)
        self._told = False  # that we send no more
        self.ended = False
        """Whether no more text will come: the client has said so, or broke the protocol."""

    # --- The handshake. ---

    def shake(self, data: bytes) -> bool:
        """Take what arrived of the handshake; return whether it is done.

        However it stands, there may be something to send then (`unsent`): even where this raises
        `HandshakeFailed`, because the client is told the reason.
        """
        self._arrived.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise HandshakeFailed from error
        return True

    def behind(self) -> bytes:
        """Return the records that arrived behind the handshake's, to be given to `decrypt`."""
        return self._arrived.read()

    def peer_name(self) -> str | None:
        """Return the one common name of the client's certificate, which was verified.

        None where there is no certificate, or it does not have exactly one such name.
        """
        subject = (self._tls.getpeercert() or {}).get("subject", ())
        names = [str(pair[1]) for part in subject for pair in part if pair[0] == "commonName"]
        return names[0] if len(names) == 1 else None

    # --- The connection. ---

    def decrypt(self, data: bytes) -> bytes:
        """Return the text in the records that are complete by now; set `ended` behind the last."""
        self._arrived.write(data)
        try:
            text = self._tls.read(_RECORD_TEXT_BYTES_MAX)
        except ssl.SSLWantReadError:  # a part of a record
            return b""
        except ssl.SSLError:
            self.ended = True
            return b""
        if text and not self._arrived.pending:
            return text  # one record: so it is most of the time
        return self._decrypt_all(text)

    def _decrypt_all(self, text: bytes) -> bytes:
        """Return a text with what is in the records behind it."""
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
        """Return the records from which the client reads a text; nothing where TLS is broken."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.write(text)
        return self._unsent.read()

    def end(self) -> bytes:
        """Return what tells the client that no more comes (close_notify), the first time."""
        if not self._told:
            self._told = True
            with contextlib.suppress(ssl.SSLError):  # it has not said the same yet, or it is broken
                self._tls.unwrap()
        return self.unsent()

    def unsent(self) -> bytes:
        """Return what TLS has to say by itself: of the handshake, alerts, new keys."""
        return self._unsent.read() if self._unsent.pending else b""
