"""TLS of the clients: version 1.3, and only with a service whose certificate is trusted.

It does no input or output: a `Session` turns bytes into bytes. So both clients treat a connection
with TLS as one without, and a child process can drop its copy of a connection after a fork without
sending anything. It is imported only if a URL asks for TLS, because `ssl` takes time to load.

No close_notify is sent: every request ends with a newline, so nobody can cut one short unnoticed.
"""

import ssl
from collections.abc import Callable

from pwserver import memory, trust
from pwserver.client.round_trip import RoundTrip
from pwserver.client.url import ServiceUrl
from pwserver.errors import ConfigError, ConnectionFailed, TlsFailed

_READ_BYTES = 64 * 1024

_FILE_BYTES_MAX = 4 * 1024 * 1024
"""More than the certificates of all public authorities take."""

_RECORDS = (0x15, 0x16)
"""The record types with which a TLS service may begin: an alert or a handshake."""

_NOT_TRUSTED = {  # by the numbers that OpenSSL has for what it finds (X509_V_ERR)
    9: "its certificate is not valid yet; compare the clocks",
    10: "its certificate has expired",
    62: "its certificate is for other host names",
    64: "its certificate is for other addresses",
}


def client_context(
    ca_file: str | None = None, client_cert: str | None = None, client_key: str | None = None
) -> ssl.SSLContext:
    """Return the context of a client; without a `ca_file` it trusts the system's authorities.

    Raises `ConfigError` for files (PEM) that cannot be used. They are not read again later.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and hosts
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca_file is None:
        context.load_default_certs()
    else:
        trusted = _content("ca_file", ca_file).decode("ascii", "ignore")  # comments are not ASCII
        _load(
            lambda: context.load_verify_locations(cadata=trusted),
            f"ca_file {ca_file} must hold certificates (PEM)",
        )
    if client_cert is not None and client_key is not None:
        cert = _content("client_cert", client_cert)
        key = _content("client_key", client_key, private=True)
        with memory.path_of(cert) as cert_path, memory.path_of(key) as key_path:
            _load(
                lambda: context.load_cert_chain(cert_path, key_path, password=""),
                f"client_cert {client_cert} and client_key {client_key} must be a certificate and "
                "its key (PEM, not encrypted)",
            )
    return context


def _content(setting: str, file: str, *, private: bool = False) -> bytes:
    return trust.read(file, setting, ConfigError, bytes_max=_FILE_BYTES_MAX, private=private)


def _load(load: Callable[[], None], problem: str) -> None:
    try:
        load()
    except ssl.SSLError as error:
        why = f": {_words(error)}" if error.reason else ""
        raise ConfigError(f"{problem}{why}.") from None


class Session:
    """The TLS of one connection: it encrypts what is sent, and decrypts what arrives."""

    def __init__(self, context: ssl.SSLContext, url: ServiceUrl) -> None:
        self._url = url
        self._arrived = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        # Certificates have neither the zone of an address nor the final dot of a full name.
        host = url.host.partition("%")[0].removesuffix(".")
        self._tls = context.wrap_bio(self._arrived, self._to_send, server_hostname=host)
        self._began = False  # the service has sent something
        self._answered = False  # the service has sent something after the handshake
        self.is_ready = False
        """Whether the handshake is done on this side."""
        self._advance()

    def handshake(self, deadline: float) -> RoundTrip:
        """Return a part of the handshake; it is to be repeated until `is_ready`."""
        return _Handshake(self, deadline)

    def encrypt(self, data: bytes) -> bytes:
        """Return the records in which the service reads `data`."""
        self._tls.write(data)
        return self.unsent()

    def decrypt(self, data: bytes) -> bytes | None:
        """Return what the service sent: None while a record is incomplete, b"" at the end."""
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()
        parts = []
        try:
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                return None
        except ssl.SSLEOFError:  # no close_notify: replies end with a newline, too
            pass
        except ssl.SSLError as error:
            refusal = None if self._answered else self._refusal(error)
            raise refusal or ConnectionFailed(
                f"the connection was lost: {_words(error)}."
            ) from None
        self._answered |= bool(parts)
        return b"".join(parts)

    def unsent(self) -> bytes:
        """Return what is to be sent of the handshake.

        The last part is sent together with the first request. So a service that refuses the
        client's certificate, which the client sees only after that, has had a single packet.
        """
        return self._to_send.read()

    def shake_hands(self, data: bytes) -> bool:
        """Take the service's part of the handshake; return whether this side sends next."""
        if not data:
            raise ConnectionFailed(
                f"{self._url} cannot be reached: it closed the connection in the TLS handshake."
            )
        if not self._began and data[0] not in _RECORDS:
            raise TlsFailed(f"{self._url} does not speak TLS; if it should not, use pwserver://.")
        self._began = True
        self._arrived.write(data)
        self._advance()
        return self.is_ready or self._to_send.pending > 0

    def _advance(self) -> None:
        try:
            self._tls.do_handshake()
            self.is_ready = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise self._refusal(error) or ConnectionFailed(
                f"{self._url} cannot be reached: the TLS handshake failed, {_words(error)}."
            ) from None

    def _refusal(self, error: ssl.SSLError) -> TlsFailed | None:
        """Return the error if one side does not accept the other; None for anything else."""
        reason = error.reason or ""
        if isinstance(error, ssl.SSLCertVerificationError):
            doubt = f"its certificate comes from no trusted authority ({error.verify_message})"
            problem = f"is not trusted: {_NOT_TRUSTED.get(error.verify_code, doubt)}"
        elif "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
            problem = "does not speak TLS 1.3"
        elif "CERTIFICATE_REQUIRED" in reason:
            problem = "wants a client certificate; give one with client_cert and client_key"
        elif "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            problem = f"does not accept the client certificate: {_words(error)}"
        else:
            return None
        return TlsFailed(f"{self._url} {problem}.")


class _Handshake(RoundTrip):
    """One exchange of the handshake."""

    def __init__(self, session: Session, deadline: float) -> None:
        super().__init__(deadline)
        self._session = session

    def request(self) -> bytes:
        """Return this side's next part; usually there is only one."""
        self.awaiting = True
        return self._session.unsent()

    def take(self, data: bytes) -> None:
        """Take what arrived of the service's part."""
        self.awaiting = not self._session.shake_hands(data)


def _words(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for an error, or the name of the service's alert."""
    reason = error.reason or "no reason was given"
    return reason.rpartition("ALERT_")[2].replace("_", " ").lower()
