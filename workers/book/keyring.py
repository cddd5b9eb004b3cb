"""The keyring: the keys that passwords are sealed with, and the file that holds them.

A keyring file has a line for each key: a tag, the key's number and its 32 bytes in base64:

    pwserver-integrity-v1 0 Yx0A3m...
    pwserver-key-v1 1 2d7Gk0...
    pwserver-key-v1 2 pl9w1s...

The newest key seals; the older keys open rows that are not sealed again yet. The integrity key
authenticates data that is not sealed (the audit record, the applications). It is never rotated,
because old audit records must stay verifiable. It comes first, so that a file that was cut short
is not taken for a complete one. A file with only one key, as the first pwserver made them, has no
integrity key: it is derived from that key, and written to the file when a key is added.

The lines may be wrapped: sealed as a whole with a key that scrypt (RFC 7914) derives from a
passphrase. Such a file has one line: a tag, the binary logarithm of scrypt's N, the salt, and the
nonce and the sealed lines (AES-256-GCM), both in base64. Who has read it can read and write it
again without the passphrase, because the keyring keeps the derived key.

Knows nothing of the database.
"""

import base64
import binascii
import contextlib
import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pwserver import lock_file, trust
from pwserver.errors import KeyRefused
from pwserver.secret import Secret

KEY_BYTES = 32

INTEGRITY_ID = 0
"""The number of the integrity key. No password is ever sealed with it."""

LOCK_WAIT_S = 30.0
"""How long to wait for another command that changes the keys; it takes milliseconds."""

_KEY_TAG = "pwserver-key-v1"
_INTEGRITY_TAG = "pwserver-integrity-v1"
_WRAPPED_TAG = b"pwserver-wrapped-v1"
_FILE_BYTES_MAX = 64 * 1024
_NUMBER_MAX = 2**31 - 1

_SALT_BYTES = 16
_NONCE_BYTES = 12
_COST = 17
"""scrypt takes 128 MiB of memory with N = 2^17 and r = 8."""

_COST_MAX = 20
"""The greatest cost of a file that is read: scrypt takes 1 GiB."""

Passphrase = Callable[[], Secret[str]]
"""Returns the passphrase of a wrapped file, or raises a `KeyRefused`."""


def derived(secret: Secret[bytes], purpose: str, length: int = 32) -> Secret[bytes]:
    """Derive a key from this one, a different one for each purpose (HKDF-SHA-256)."""
    hkdf = HKDF(hashes.SHA256(), length=length, salt=None, info=purpose.encode())
    return Secret(hkdf.derive(secret.reveal()))


def _check_value(secret: Secret[bytes]) -> bytes:
    return derived(secret, "pwserver key check v1", 16).reveal()


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key that passwords are sealed with, and its number, `id`."""

    id: int
    secret: Secret[bytes]

    @property
    def check_value(self) -> bytes:
        """16 bytes derived from this key that identify it but do not reveal it."""
        return _check_value(self.secret)

    def matches(self, check_value: bytes) -> bool:
        """Tell whether a check value was made by this key."""
        return hmac.compare_digest(self.check_value, check_value)


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The key that a file is sealed with, and what it was derived with from a passphrase."""

    cost: int  # the binary logarithm of scrypt's N
    salt: bytes
    key: Secret[bytes]

    @classmethod
    def of(cls, passphrase: Secret[str], cost: int = _COST, salt: bytes = b"") -> "Wrapping":
        """Derive the key from a passphrase, with a new salt unless one is given."""
        salt = salt or os.urandom(_SALT_BYTES)
        scrypt = Scrypt(salt=salt, length=KEY_BYTES, n=1 << cost, r=8, p=1)
        return cls(cost, salt, Secret(scrypt.derive(passphrase.reveal().encode())))

    def seal(self, content: bytes) -> bytes:
        """Return the content of a wrapped file."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(self.key.reveal()).encrypt(nonce, content, _WRAPPED_TAG)
        fields = (_WRAPPED_TAG, b"%d" % self.cost, *map(base64.b64encode, (self.salt, sealed)))
        return b" ".join(fields) + b"\n"

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed; raise `InvalidTag` if it was by another key, or altered."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return AESGCM(self.key.reveal()).decrypt(nonce, rest, _WRAPPED_TAG)


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by their numbers, and the integrity key; how the file of them is wrapped, if it is."""

    keys: dict[int, MasterKey]
    integrity: Secret[bytes] = field(repr=False)
    wrapping: Wrapping | None = field(default=None, compare=False)

    @property
    def newest(self) -> MasterKey:
        """The key with the greatest number."""
        return self.keys[max(self.keys)]

    def with_new_key(self) -> "Keyring":
        """Return a keyring with one more, random key."""
        key = MasterKey(self.newest.id + 1, Secret(os.urandom(KEY_BYTES)))
        return replace(self, keys=self.keys | {key.id: key})

    def without(self, key_id: int) -> "Keyring":
        """Return a keyring without one of the keys."""
        keys = {number: key for number, key in self.keys.items() if number != key_id}
        return replace(self, keys=keys)

    @property
    def check_values(self) -> dict[int, bytes]:
        """The check values of all keys by their numbers, the newest last."""
        values = {INTEGRITY_ID: _check_value(self.integrity)}
        return values | {number: self.keys[number].check_value for number in sorted(self.keys)}

    def may_follow(self, before: "Keyring") -> bool:
        """Tell whether this keyring can follow an earlier one: no key has changed its value."""
        both = self.keys.keys() & before.keys.keys()
        same = all(self.keys[number].secret == before.keys[number].secret for number in both)
        return same and self.integrity == before.integrity

    def for_purpose(self, purpose: str) -> Secret[bytes]:
        """Return a key for one purpose, derived from the integrity key, so rotations keep it."""
        return derived(self.integrity, f"pwserver {purpose} v1")


def new_keyring() -> Keyring:
    """Return a keyring with one random key."""
    key = MasterKey(1, Secret(os.urandom(KEY_BYTES)))
    return Keyring({key.id: key}, Secret(os.urandom(KEY_BYTES)))


def create_keyring(path: Path, keyring: Keyring | None = None) -> None:
    """Make a file with a new key, or with given ones, that only its owner may read, and sync it.

    Raises FileExistsError if there is a file already, because a key is never replaced, and
    `KeyRefused` if the file cannot be made.
    """
    try:
        with trust.written(path, _content(keyring or new_keyring())) as unfinished:
            os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise KeyRefused(f"the key file {path} cannot be made: {error.strerror}.") from None
    trust.sync_folder(path)


@contextlib.contextmanager
def changing_keyring(path: Path, before: Keyring | None = None) -> Iterator[Keyring]:
    """Yield the keyring to a caller that will `replace_keyring`, and lock out other callers.

    `before` is what the caller has read already: it opens a file that is wrapped.
    Raises `KeyRefused` if the file cannot be read, or its lock is not free within `LOCK_WAIT_S`.
    """
    lock_path = path.with_name(f"{path.name}-lock")
    try:
        with trust.roots_rights():  # the folder may be root's
            lock = lock_file.lock(lock_path, _owner(path), LOCK_WAIT_S)
            if os.geteuid() == trust.ROOT:
                os.fchown(lock, _owner(path), -1)
    except lock_file.Untrusted as reason:
        raise KeyRefused(f"{lock_path} {reason}") from None
    except BlockingIOError:
        raise KeyRefused(
            f"{lock_path} is locked: another command has been changing the keys for "
            f"{LOCK_WAIT_S:g} s. Nothing was done."
        ) from None
    except OSError as error:
        raise KeyRefused(f"{lock_path} cannot be opened: {error.strerror}.") from None
    try:
        yield read_keyring(path, known=before.wrapping if before else None)
    finally:
        with trust.roots_rights():
            lock_file.unlock(lock, lock_path)


def _owner(path: Path) -> int:
    """Return whose the lock may be, besides root's: for root, the owner of the key file."""
    try:
        return os.stat(path).st_uid if os.geteuid() == trust.ROOT else os.geteuid()
    except OSError:
        return trust.ROOT


def replace_keyring(path: Path, keyring: Keyring) -> None:
    """Replace the keyring in a file atomically, even if the power fails."""
    try:
        with trust.roots_rights():  # the folder may be root's, and the file the service's
            trust.replace(path, _content(keyring), os.stat(path))
    except OSError as error:
        raise KeyRefused(
            f"the key file {path} cannot be changed: {error.strerror}. Nothing was done."
        ) from None


def _content(keyring: Keyring) -> bytes:
    """Return the content of a keyring's file, wrapped if it is to be."""
    lines = [(_INTEGRITY_TAG, 0, keyring.integrity)]
    lines += [(_KEY_TAG, number, key.secret) for number, key in sorted(keyring.keys.items())]
    content = b"".join(
        f"{tag} {number} {base64.b64encode(secret.reveal()).decode()}\n".encode()
        for tag, number, secret in lines
    )
    return content if keyring.wrapping is None else keyring.wrapping.seal(content)


def read_keyring(
    path: Path, passphrase: Passphrase | None = None, known: Wrapping | None = None
) -> Keyring:
    """Return the keys in a file; raise a `KeyRefused` that says what to do.

    A wrapped file is opened with the key that is `known` of it, or else with the passphrase.
    """
    content = trust.read(
        path,
        "the key file",
        KeyRefused,
        bytes_max=_FILE_BYTES_MAX,
        private=True,
        missing=f"there is no key file {path}. Without it no saved password can be read: put it "
        "back from your backup, or name the right one with --key-file.",
    )
    wrapping = None
    if content.startswith(_WRAPPED_TAG):
        wrapping, content = _unwrapped(path, content, passphrase, known)
    keys, integrity = _parsed(path, content)
    if not keys or (integrity is None and len(keys) > 1):
        raise _damaged(path)
    if integrity is None:
        integrity = derived(next(iter(keys.values())).secret, "pwserver integrity v1")
    return Keyring(keys, integrity, wrapping)


def _unwrapped(
    path: Path, content: bytes, passphrase: Passphrase | None, known: Wrapping | None
) -> tuple[Wrapping, bytes]:
    """Return how a file is wrapped, and its lines."""
    try:
        _, digits, *encoded = content.split()
        cost = int(digits)
        salt, sealed = (base64.b64decode(each, validate=True) for each in encoded)
    except (ValueError, binascii.Error):
        raise _damaged(path) from None
    if not (0 < cost <= _COST_MAX and salt):
        raise _damaged(path)
    if known is not None and (known.cost, known.salt) == (cost, salt):
        wrapping = known
    elif passphrase is not None:
        wrapping = Wrapping.of(passphrase(), cost, salt)
    else:
        raise KeyRefused(
            f"{path} has been sealed with a passphrase meanwhile: start the service again."
        )
    try:
        return wrapping, wrapping.open(sealed)
    except InvalidTag:
        raise KeyRefused(
            f"{path} does not open: the passphrase is not the right one, or the file is damaged."
        ) from None


def read_keyring_again(path: Path, before: Keyring) -> Keyring:
    """Read a key file again; raise `KeyRefused`, also if it is now another service's file.

    The keys in `before` were checked against the database. A password sealed with another key of
    the same number could never be read.
    """
    keyring = read_keyring(path, known=before.wrapping)
    if not keyring.may_follow(before):
        raise KeyRefused(f"{path} was replaced by a key file of another service. Put it back.")
    return keyring


def _parsed(path: Path, text: bytes) -> tuple[dict[int, MasterKey], Secret[bytes] | None]:
    keys: dict[int, MasterKey] = {}
    integrity: Secret[bytes] | None = None
    try:
        for line in text.decode("ascii").splitlines():
            tag, digits, encoded = line.split()
            number, secret = int(digits), Secret(base64.b64decode(encoded, validate=True))
            if len(secret.reveal()) != KEY_BYTES:
                raise ValueError
            if tag == _KEY_TAG and 0 < number <= _NUMBER_MAX and number not in keys:
                keys[number] = MasterKey(number, secret)
            elif tag == _INTEGRITY_TAG and integrity is None:
                integrity = secret
            else:
                raise ValueError
    except (ValueError, binascii.Error):
        raise _damaged(path) from None
    return keys, integrity


def _damaged(path: Path) -> KeyRefused:
    return KeyRefused(
        f"{path} is not a key file of pwserver, or it is damaged. Put it back from your backup."
    )
