"""SCRAM-SHA-256 (RFC 5802, RFC 7677): both sides prove that they know a token; neither sends it.

    client   n,,n=USER,r=NONCE                        client-first
    service  r=NONCE+NONCE,s=SALT,i=ITERATIONS        server-first
    client   c=biws,r=NONCE+NONCE,p=PROOF             client-final
    service  v=SIGNATURE                              server-final

So somebody who has taken the service's port collects nothing that opens the book, and the client
notices that it does not speak with the service. What the service keeps of a token (`Verifier`) does
not serve to authenticate. There is no channel binding, because this is for connections without TLS.

USER is not a name: `user_of` derives it from the token, which is random and has 256 bits. For the
same reason the least number of iterations that the RFC allows is enough.

This file knows no message and no connection.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import os
import re
import struct
from typing import NamedTuple

ITERATIONS = 4096
ITERATIONS_MAX = 100_000
"""More than that a client does not take from a service that nobody has made sure of yet."""

_SALT_BYTES = 16
_NONCE_BYTES = 18
_USER_LENGTH = 32
_DIGEST_BYTES = 32
_PACKED = struct.Struct(f">{_SALT_BYTES}sI{_DIGEST_BYTES}s{_DIGEST_BYTES}s")
_HEADER = "n,,"
_FINAL_HEADER = "c=biws"  # "n,," in base64

_NONCE = "[!-+\\--~]{1,256}"  # printable ASCII without the comma
_BASE64 = "[A-Za-z0-9+/=]{1,256}"
_CLIENT_FIRST = re.compile(f"n,,(n=([A-Za-z0-9]{{1,64}}),r=({_NONCE}))")
_SERVER_FIRST = re.compile(f"r=({_NONCE}),s=({_BASE64}),i=([1-9][0-9]{{0,8}})")
_CLIENT_FINAL = re.compile(f"({_FINAL_HEADER},r=({_NONCE})),p=({_BASE64})")
_SERVER_FINAL = re.compile(f"v=({_BASE64})")


class ScramError(Exception):
    """The other side's message is not one of this exchange, or its proof is wrong."""


class Verifier(NamedTuple):
    """What is kept of a token: enough to check a proof and to make one of one's own."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    @classmethod
    def of(cls, token: str, salt: bytes = b"", iterations: int = ITERATIONS) -> "Verifier":
        """Make the verifier of a token, with a new salt unless one is given."""
        salt = salt or os.urandom(_SALT_BYTES)
        salted = _salted(token, salt, iterations)
        stored_key = hashlib.sha256(_mac(salted, b"Client Key")).digest()
        return cls(salt, iterations, stored_key, _mac(salted, b"Server Key"))

    @classmethod
    def unpack(cls, packed: bytes) -> "Verifier":
        """Return one as `pack` has packed it."""
        return cls(*_PACKED.unpack(packed))

    def pack(self) -> bytes:
        """Return it as it is stored."""
        return _PACKED.pack(*self)

    @classmethod
    def of_nobody(cls, user: str, key: bytes) -> "Verifier":
        """Make one that no token has, and whose salt is always the same for a user.

        So the service's first message does not tell whether there is such a user.
        """
        salt = _mac(key, user.encode())[:_SALT_BYTES]
        return cls(salt, ITERATIONS, os.urandom(_DIGEST_BYTES), os.urandom(_DIGEST_BYTES))


def user_of(token: str) -> str:
    """Return the name under which the service finds a token: a part of its SHA-256."""
    return user_of_hash(hashlib.sha256(token.encode()).digest())


def user_of_hash(digest: bytes) -> str:
    """Return the same from the SHA-256 of a token."""
    return digest.hex()[:_USER_LENGTH]


class Client:
    """The client's side of one exchange. Its methods raise `ScramError`."""

    def __init__(self, user: str, token: str, nonce: str = "") -> None:
        self._token = token
        self._nonce = nonce or _new_nonce()
        self._bare = f"n={user},r={self._nonce}"
        self._signature = b""

    def first(self) -> str:
        """Return the client's first message."""
        return _HEADER + self._bare

    def final(self, server_first: str) -> str:
        """Return the client's last message, with its proof."""
        nonce, salt_text, digits = _parsed(_SERVER_FIRST, server_first)
        iterations, salt = int(digits), _decoded(salt_text)
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("it does not continue the client's nonce.")
        if not ITERATIONS <= iterations <= ITERATIONS_MAX:
            raise ScramError("the number of iterations is out of bounds.")
        salted = _salted(self._token, salt, iterations)
        client_key = _mac(salted, b"Client Key")
        without_proof = f"{_FINAL_HEADER},r={nonce}"
        exchanged = f"{self._bare},{server_first},{without_proof}".encode()
        signature = _mac(hashlib.sha256(client_key).digest(), exchanged)
        self._signature = _mac(_mac(salted, b"Server Key"), exchanged)
        return f"{without_proof},p={_encoded(_xor(client_key, signature))}"

    def check(self, server_final: str) -> None:
        """Return if the other side has proved that it has the verifier of the token."""
        (text,) = _parsed(_SERVER_FINAL, server_final)
        if not self._signature or not hmac.compare_digest(_decoded(text), self._signature):
            raise ScramError("it does not know the token.")


class Server:
    """The service's side of one exchange; raises `ScramError` if `client_first` is not one."""

    def __init__(self, client_first: str, nonce: str = "") -> None:
        self._bare, self.user, client_nonce = _parsed(_CLIENT_FIRST, client_first)
        self._nonce = client_nonce + (nonce or _new_nonce())
        self._verifier: Verifier | None = None
        self._first = ""

    def first(self, verifier: Verifier) -> str:
        """Return the service's first message."""
        self._verifier = verifier
        salt = _encoded(verifier.salt)
        self._first = f"r={self._nonce},s={salt},i={verifier.iterations}"
        return self._first

    def final(self, client_final: str) -> str:
        """Return the service's last message, with its own proof; raise if the client's is wrong."""
        assert self._verifier is not None
        without_proof, nonce, proof_text = _parsed(_CLIENT_FINAL, client_final)
        proof = _decoded(proof_text)
        if nonce != self._nonce or len(proof) != _DIGEST_BYTES:
            raise ScramError("it is not of this exchange.")
        exchanged = f"{self._bare},{self._first},{without_proof}".encode()
        client_key = _xor(proof, _mac(self._verifier.stored_key, exchanged))
        stored_key = hashlib.sha256(client_key).digest()
        if not hmac.compare_digest(stored_key, self._verifier.stored_key):
            raise ScramError("the client does not know the token.")
        return f"v={_encoded(_mac(self._verifier.server_key, exchanged))}"


@functools.lru_cache(maxsize=16)  # a client shows the same token on each of its connections
def _salted(token: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", token.encode(), salt, iterations)


def _new_nonce() -> str:
    return _encoded(os.urandom(_NONCE_BYTES))


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _parsed(form: re.Pattern[str], message: str) -> tuple[str, ...]:
    found = form.fullmatch(message)
    if found is None:
        raise ScramError("it is not a message of SCRAM-SHA-256.")
    return found.groups()


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ScramError("it is not a message of SCRAM-SHA-256.") from None
