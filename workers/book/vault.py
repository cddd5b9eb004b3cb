"""Seals and opens passwords. Knows nothing of sockets or databases.

A password is sealed with XAES-256-GCM (C2SP, https://c2sp.org/XAES-256-GCM). The first half of a
192-bit nonce selects a subkey for AES-256-GCM, derived from the master key by CMAC, and the second
half is the nonce under that subkey. Plain GCM with random 96-bit nonces must stop after 2^32
messages a key (NIST SP 800-38D, 8.3), and a nonce that occurs twice breaks the encryption. Here
each `Vault`, so each start of each worker, draws its own random first half and counts in the second
half:

- within a vault a nonce cannot repeat, because the counter does not;
- between vaults it repeats only if two draws of 96 random bits are equal: after 2^32 starts of a
  worker the chance is 2^-33.

It is as fast as plain GCM, because the subkey is derived once a vault and nothing is drawn for each
password: it takes 0.8 microseconds a password. AES-256-GCM-SIV with a random nonce, the other
construction that is safe here, takes 1.6 (`benchmarks/costs/costs.py`).

A sealed password is the nonce (24 bytes), the ciphertext (as long as the password in UTF-8) and the
tag (16 bytes). The associated data of a user's newest password is all the rest of the row, so that
an altered row does not open; that of an older version identifies the user and the version.
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
"""Kind, user, key, book, version, time saved, bytes of the name, bytes of the labels."""

_DECOY = "a password of nobody"
_SUBKEYS_MAX = 1024  # in the cache; each start of a worker makes one


def newest_associated_data(user: UserRow) -> bytes:
    """Return the associated data of a user's newest password: the rest of its row."""
    if user.username is None and user.labels is None and user.older is None:  # most users
        return _FIELDS.pack(
            *(_NEWEST, user.id, user.key_id, user.book, user.version, user.saved_at_ms, 0, 0)
        )
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
    """Return the associated data of an older version of a user's password."""
    head = (_OLDER, user.id, older.key_id, user.book, older.version, older.saved_at_ms)
    return _FIELDS.pack(*head, 0, 0)


class Vault:
    """Seals passwords with one key and opens them with any. Do not share one between processes."""

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
        """Return a password sealed for storage and bound to its associated data."""
        self._counter += 1
        nonce = self._counter.to_bytes(HALF_NONCE_BYTES, "big")
        return self._prefix + nonce + self._encrypt(nonce, password.encode(), associated_data)

    def seal_rows(
        self, passwords: list[str], user_ids: range, book: int, saved_at_ms: int
    ) -> list[Row]:
        """Return rows of new users without a name or labels, as many as there are ids.

        This is the service's hottest loop: it runs for every password.
        """
        key_id, prefix, encrypt, pack = self.key_id, self._prefix, self._encrypt, _FIELDS.pack
        rows = []
        counter = self._counter
        self._counter += len(passwords)  # first, so that no nonce repeats if the loop fails
        for user_id, password in zip(user_ids, passwords, strict=False):
            counter += 1
            nonce = counter.to_bytes(HALF_NONCE_BYTES, "big")
            associated_data = pack(_NEWEST, user_id, key_id, book, 1, saved_at_ms, 0, 0)
            sealed = prefix + nonce + encrypt(nonce, password.encode(), associated_data)
            rows.append((user_id, book, key_id, sealed, saved_at_ms))
        return rows

    def open(self, sealed: bytes, key_id: int, associated_data: bytes) -> str:
        """Return a stored password.

        Raises `DatabaseRefused` if it was altered or moved, or if its key is missing.
        """
        try:
            prefix, nonce = sealed[:HALF_NONCE_BYTES], sealed[HALF_NONCE_BYTES:NONCE_BYTES]
            aead = self._subkey(key_id, prefix)
            return aead.decrypt(nonce, sealed[NONCE_BYTES:], associated_data).decode()
        except (InvalidTag, KeyError, ValueError, TypeError):
            pass
        raise DatabaseRefused("it does not open: it was altered, or moved from elsewhere.")

    def open_decoy(self) -> str:
        """Open a password of no user, so that an unknown name takes as long as a known one."""
        return self.open(self._decoy, self.key_id, b"")

    def fingerprint(self, content: bytes) -> int:
        """Return a keyed hash of 63 bits, which SQLite can store as an integer."""
        digest = hashlib.blake2b(content, digest_size=8, key=self._fingerprint_key).digest()
        return int.from_bytes(digest, "big") >> 1


def _subkey(keyring: Keyring, key_id: int, prefix: bytes) -> AESGCM:
    return AESGCM(derive_key(keyring.keys[key_id].secret, prefix))


def derive_key(secret: Secret[bytes], prefix: bytes) -> bytes:
    """Return the AES-256-GCM key for the first half of a nonce, as XAES-256-GCM derives it."""
    key = b""
    for number in (1, 2):
        code = CMAC(algorithms.AES256(secret.reveal()))
        code.update(b"\x00" + bytes([number]) + b"X\x00" + prefix)
        key += code.finalize()
    return key
