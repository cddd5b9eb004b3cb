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

Knows nothing of the database.
"""

import base64
import binascii
import contextlib
import hmac
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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
_FILE_BYTES_MAX = 64 * 1024
_NUMBER_MAX = 2**31 - 1


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
class Keyring:
    """Keys by their numbers, and the integrity key."""

    keys: dict[int, MasterKey]
    integrity: Secret[bytes] = field(repr=False)

    @property
    def newest(self) -> MasterKey:
        """The key with the greatest number."""
        return self.keys[max(self.keys)]

    def with_new_key(self) -> "Keyring":
        """Return a keyring with one more, random key."""
        key = MasterKey(self.newest.id + 1, Secret(os.urandom(KEY_BYTES)))
        return Keyring(self.keys | {key.id: key}, self.integrity)

    def without(self, key_id: int) -> "Keyring":
        """Return a keyring without one of the keys."""
        keys = {number: key for number, key in self.keys.items() if number != key_id}
        return Keyring(keys, self.integrity)

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


def create_keyring(path: Path) -> None:
    """Make a file with a new key that only its owner may read, and sync it.

    Raises FileExistsError if there is a file already, because a key is never replaced, and
    `KeyRefused` if the file cannot be made.
    """
    key = MasterKey(1, Secret(os.urandom(KEY_BYTES)))
    keyring = Keyring({key.id: key}, Secret(os.urandom(KEY_BYTES)))
    try:
        with _written(path, keyring) as unfinished:
            os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise KeyRefused(f"the key file {path} cannot be made: {error.strerror}.") from None
    _sync_folder(path)


@contextlib.contextmanager
def changing_keyring(path: Path) -> Iterator[Keyring]:
    """Yield the keyring to a caller that will `replace_keyring`, and lock out other callers.

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
        yield read_keyring(path)
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
            with _written(path, keyring, os.stat(path)) as unfinished:
                os.rename(unfinished, path)
            _sync_folder(path)
    except OSError as error:
        raise KeyRefused(
            f"the key file {path} cannot be changed: {error.strerror}. Nothing was done."
        ) from None


@contextlib.contextmanager
def _written(path: Path, keyring: Keyring, before: os.stat_result | None = None) -> Iterator[str]:
    """Yield the name of a new, synced file with a keyring; delete it afterwards.

    If root makes it, it gets the owner and group of the file `before`.
    """
    lines = [(_INTEGRITY_TAG, 0, keyring.integrity)]
    lines += [(_KEY_TAG, number, key.secret) for number, key in sorted(keyring.keys.items())]
    descriptor, unfinished = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for tag, number, secret in lines:
                encoded = base64.b64encode(secret.reveal()).decode()
                file.write(f"{tag} {number} {encoded}\n".encode())
            file.flush()
            if before is not None and os.geteuid() == trust.ROOT:
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        yield unfinished
    finally:
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(unfinished)


def _sync_folder(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_keyring(path: Path) -> Keyring:
    """Return the keys in a file; raise a `KeyRefused` that says what to do."""
    content = trust.read(
        path,
        "the key file",
        KeyRefused,
        bytes_max=_FILE_BYTES_MAX,
        private=True,
        missing=f"there is no key file {path}. Without it no saved password can be read: put it "
        "back from your backup, or name the right one with --key-file.",
    )
    keys, integrity = _parsed(path, content)
    if not keys or (integrity is None and len(keys) > 1):
        raise _damaged(path)
    if integrity is None:
        integrity = derived(next(iter(keys.values())).secret, "pwserver integrity v1")
    return Keyring(keys, integrity)


def read_keyring_again(path: Path, before: Keyring) -> Keyring:
    """Read a key file again; raise `KeyRefused`, also if it is now another service's file.

    The keys in `before` were checked against the database. A password sealed with another key of
    the same number could never be read.
    """
    keyring = read_keyring(path)
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
