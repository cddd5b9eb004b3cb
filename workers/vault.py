"""Keys, and sealing and opening passwords with them. Knows nothing of sockets or databases.

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
is safe here, takes 1.6 (`benchmarks/costs.py`).

A sealed password is nonce (24 bytes), ciphertext (as long as the password in UTF-8) and tag (16
bytes). What it belongs to is the associated data: the user, the key, and, except for the first
version in the common book, the book and the version. A sealed value that was moved to another row,
or to the place of another version, does not open.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import os
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pwserver.errors import DatabaseRefused, KeyRefused
from workers.models import COMMON_BOOK

KEY_BYTES = 32
HALF_NONCE_BYTES = 12
NONCE_BYTES = 2 * HALF_NONCE_BYTES
TAG_BYTES = 16

_OWNER = struct.Struct(">QI")  # ids of user and key
_PLACE = struct.Struct(">IQ")  # book and version, where they are not the usual ones
_DECOY = "a password of nobody"
_SUBKEYS_MAX = 1024  # kept at hand; there is one for each start of a worker
_FILE_TAG = "pwserver-key-v1"
_FILE_BYTES_MAX = 4096


@dataclass(frozen=True)
class MasterKey:
    """A key and its number. Neither its repr nor any error shows the key."""

    id: int
    secret: bytes

    def __repr__(self) -> str:
        return f"MasterKey(id={self.id})"

    @property
    def check_value(self) -> bytes:
        """16 bytes that only this key produces and that say nothing about it."""
        return _derived(self.secret, b"pwserver key check v1", 16)

    def matches(self, check_value: bytes) -> bool:
        """Tell whether a check value was made by this key."""
        return hmac.compare_digest(self.check_value, check_value)


class Vault:
    """Seals and opens passwords with one key. Not to be shared between processes."""

    def __init__(self, key: MasterKey) -> None:
        self.key_id = key.id
        self._prefix = os.urandom(HALF_NONCE_BYTES)
        self._encrypt = AESGCM(derive_key(key.secret, self._prefix)).encrypt
        self._counter = 0
        subkey = functools.partial(_subkey, key.secret)
        self._subkey = functools.lru_cache(maxsize=_SUBKEYS_MAX)(subkey)
        self._decoy = self.seal(_DECOY, 0)
        self._fingerprint_key = _derived(key.secret, b"pwserver request fingerprint v1", 32)

    def seal(self, password: str, user_id: int, version: int = 1, book: int = COMMON_BOOK) -> bytes:
        """Return a version of a user's password as it is stored."""
        self._counter += 1
        nonce = self._counter.to_bytes(HALF_NONCE_BYTES, "big")
        owner = self._owner(user_id, version, book)
        return self._prefix + nonce + self._encrypt(nonce, password.encode(), owner)

    def open(self, sealed: bytes, user_id: int, version: int = 1, book: int = COMMON_BOOK) -> str:
        """Return a stored password; raise `DatabaseRefused` for one that was altered or moved."""
        try:
            prefix, nonce = sealed[:HALF_NONCE_BYTES], sealed[HALF_NONCE_BYTES:NONCE_BYTES]
            owner = self._owner(user_id, version, book)
            return self._subkey(prefix).decrypt(nonce, sealed[NONCE_BYTES:], owner).decode()
        except (InvalidTag, ValueError, TypeError, struct.error):
            message = f"the sealed password of user {user_id} was altered, or moved from elsewhere."
            raise DatabaseRefused(message) from None

    def open_decoy(self) -> str:
        """Open something that belongs to nobody, where not to open anything would tell."""
        return self.open(self._decoy, 0)

    def fingerprint(self, content: bytes) -> int:
        """Return 32 bits that tell one content from another, for who has the key.

        Enough to notice a mistake, and too little to know a password by.
        """
        digest = hashlib.blake2b(content, digest_size=4, key=self._fingerprint_key).digest()
        return int.from_bytes(digest, "big")

    def _owner(self, user_id: int, version: int, book: int) -> bytes:
        """Return the associated data of what belongs to a user."""
        owner = _OWNER.pack(user_id, self.key_id)
        if version != 1 or book != COMMON_BOOK:
            owner += _PLACE.pack(book, version)
        return owner


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    """Return bytes that only the key produces, other ones for each purpose."""
    return HKDF(hashes.SHA256(), length=length, salt=None, info=purpose).derive(secret)


def _subkey(secret: bytes, prefix: bytes) -> AESGCM:
    return AESGCM(derive_key(secret, prefix))


def derive_key(secret: bytes, prefix: bytes) -> bytes:
    """Return the AES-256-GCM key for the first half of a nonce, as XAES-256-GCM has it."""
    encryptor = Cipher(algorithms.AES256(secret), modes.ECB()).encryptor()
    zero = int.from_bytes(encryptor.update(bytes(16)), "big")
    subkey = (zero << 1 ^ (0x87 if zero >> 127 else 0)) & (1 << 128) - 1
    blocks = (b"\x00" + bytes([i]) + b"X\x00" + prefix for i in (1, 2))
    masked = (int.from_bytes(block, "big") ^ subkey for block in blocks)
    return b"".join(encryptor.update(block.to_bytes(16, "big")) for block in masked)


def create_key_file(path: Path) -> None:
    """Make a new key in a new file that only its owner may read, and see it safely to the disk.

    Raises FileExistsError where there is a file already: a key is never replaced.
    """
    line = f"{_FILE_TAG} 1 {base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n".encode()
    descriptor, unfinished = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)
    finally:
        os.unlink(unfinished)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_key_file(path: Path) -> MasterKey:
    """Return the key in a file, or raise `KeyRefused` with what to do about it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has no end
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise KeyRefused(
            f"there is no key file {path}. Without it no saved password can be read: put it back "
            "from your backup, or name the right one with --key-file."
        ) from None
    except OSError as error:
        raise KeyRefused(f"the key file {path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(mode):
        raise KeyRefused(f"the key file {path} is not a regular file.")
    if mode & 0o077:
        raise KeyRefused(
            f"the key file {path} may be used by others (mode {stat.S_IMODE(mode):03o}). "
            f"Run: chmod 600 {path}"
        )
    try:
        tag, number, encoded = text.decode("ascii").split()
        secret = base64.b64decode(encoded, validate=True)
        if tag == _FILE_TAG and len(secret) == KEY_BYTES and 0 < int(number) < 1 << 31:
            return MasterKey(int(number), secret)
    except (ValueError, binascii.Error):
        pass
    raise KeyRefused(f"{path} is not a key file of pwserver, or it is damaged.")
