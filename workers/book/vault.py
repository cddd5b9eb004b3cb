"""Sealing and opening passwords. Knows nothing of sockets or databases.

A password is sealed with XAES-256-GCM (C2SP, https://c2sp.org/XAES-256-GCM): of a 192-bit nonce the
first half selects a key of its own for AES-256-GCM, derived from the master key by CMAC, and the
second half is that key's nonce. Why: plain GCM with random 96-bit nonces must stop after 2^32
messages a key (NIST SP 800-38D, 8.3), and a nonce that occurs twice gives everything away. Here
each `Vault`, so each start of each worker, draws its own random first half, and counts in the
second:

- within a vault a nonce cannot repeat, because a counter does not;
- between vaults it cannot, short of two equal draws of 96 random bits: at 2^32 starts of a worker
  the chance is 2^-33.

It is as fast as plain GCM (the derivation happens once a vault, and nothing is drawn per password):
0.8 microseconds a password, where AES-256-GCM-SIV with a random nonce, the other construction that
is safe here, takes 1.6 (`benchmarks/costs/costs.py`).

A sealed password is nonce (24 bytes), ciphertext (as long as the password in UTF-8) and tag (16
bytes). What it belongs to is the associated data: for a user's newest password all the rest of the
row, so that a row in which anything was altered does not open; for an older version its own place
in that row.
"""

import functools
import hashlib
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC

from pwserver.errors import DatabaseRefused
from pwserver.secret import Secret
from workers.book.history import OlderVersion
from workers.book.keyring import Keyring
from workers.book.models import Row, UserRow

HALF_NONCE_BYTES = 12
NONCE_BYTES = 2 * HALF_NONCE_BYTES
TAG_BYTES = 16

_NEWEST, _OLDER, _NAMED, _LABELLED, _WITH_OLDER = 0, 1, 2, 4, 8
_FIELDS = struct.Struct(">BQIIQQII")
"""What there is, user, key, book, version, time saved, bytes of the name, bytes of the labels."""

_DECOY = "a password of nobody"
_SUBKEYS_MAX = 1024  # kept at hand; there is one for each start of a worker


def newest_associated_data(user: UserRow) -> bytes:
    """Return the associated data of a user's newest password: the row but for what is sealed."""
    name, labels, kind = b"", b"", _NEWEST
    if user.username is not None:
        name, kind = user.username.encode(), kind | _NAMED
    if user.labels is not None:
        labels, kind = user.labels.encode(), kind | _LABELLED
    if user.older is not None:
        kind |= _WITH_OLDER
    fields = _FIELDS.pack(
        kind,
        user.id,
        user.key_id,
        user.book,
        user.version,
        user.saved_at_ms,
        len(name),
        len(labels),
    )
    return fields + name + labels + (user.older or b"")


def older_associated_data(user: UserRow, older: OlderVersion) -> bytes:
    """Return the associated data of an older version of a user's."""
    head = (_OLDER, user.id, older.key_id, user.book, older.version, older.saved_at_ms)
    return _FIELDS.pack(*head, 0, 0)


class Vault:
    """Seals passwords with one key and opens them with any. Not to be shared between processes."""

    def __init__(self, keyring: Keyring, key_id: int | None = None) -> None:
        key = keyring.newest if key_id is None else keyring.keys[key_id]
        self.keyring = keyring
        self.key_id = key.id
        self._prefix = os.urandom(HALF_NONCE_BYTES)
        self._encrypt = AESGCM(derive_key(key.secret, self._prefix)).encrypt
        self._counter = 0
        subkey = functools.partial(_subkey, keyring)
        self._subkey = functools.lru_cache(maxsize=_SUBKEYS_MAX)(subkey)
        self._decoy = self.seal(_DECOY, b"")
        self._fingerprint_key = keyring.for_purpose("request fingerprint").reveal()

    def seal(self, password: str, associated_data: bytes) -> bytes:
        """Return a password as it is stored, bound to what it belongs to."""
        self._counter += 1
        nonce = self._counter.to_bytes(HALF_NONCE_BYTES, "big")
        return self._prefix + nonce + self._encrypt(nonce, password.encode(), associated_data)

    def seal_rows(
        self, passwords: list[str], user_ids: range, book: int, saved_at_ms: int
    ) -> list[Row]:
        """Return rows of new users without a name or labels, as many as there are ids.

        The hottest loop there is: everything in it is paid per password.
        """
        key_id, prefix, encrypt, pack = self.key_id, self._prefix, self._encrypt, _FIELDS.pack
        rows = []
        counter = self._counter
        self._counter += len(passwords)  # first: whatever fails below, no nonce comes twice
        for user_id, password in zip(user_ids, passwords, strict=False):
            counter += 1
            nonce = counter.to_bytes(HALF_NONCE_BYTES, "big")
            associated_data = pack(_NEWEST, user_id, key_id, book, 1, saved_at_ms, 0, 0)
            sealed = prefix + nonce + encrypt(nonce, password.encode(), associated_data)
            rows.append((user_id, book, key_id, sealed, saved_at_ms))
        return rows

    def open(self, sealed: bytes, key_id: int, associated_data: bytes) -> str:
        """Return a stored password.

        Raises `DatabaseRefused` for one that was altered or moved, or whose key is not there.
        """
        try:
            prefix, nonce = sealed[:HALF_NONCE_BYTES], sealed[HALF_NONCE_BYTES:NONCE_BYTES]
            aead = self._subkey(key_id, prefix)
            return aead.decrypt(nonce, sealed[NONCE_BYTES:], associated_data).decode()
        except (InvalidTag, KeyError, ValueError, TypeError):
            pass
        raise DatabaseRefused("it does not open: it was altered, or moved from elsewhere.")

    def open_decoy(self) -> str:
        """Open something that belongs to nobody, where not to open anything would tell."""
        return self.open(self._decoy, self.key_id, b"")

    def fingerprint(self, content: bytes) -> int:
        """Return 32 bits that tell one content from another, for who has the key.

        Enough to notice a mistake, and too little to know a password by.
        """
        digest = hashlib.blake2b(content, digest_size=4, key=self._fingerprint_key).digest()
        return int.from_bytes(digest, "big")


def _subkey(keyring: Keyring, key_id: int, prefix: bytes) -> AESGCM:
    return AESGCM(derive_key(keyring.keys[key_id].secret, prefix))


def derive_key(secret: Secret[bytes], prefix: bytes) -> bytes:
    """Return the AES-256-GCM key for the first half of a nonce, as XAES-256-GCM has it."""
    key = b""
    for number in (1, 2):
        code = CMAC(algorithms.AES256(secret.reveal()))
        code.update(b"\x00" + bytes([number]) + b"X\x00" + prefix)
        key += code.finalize()
    return key
