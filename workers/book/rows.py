"""Opens a user's row, adds versions to it, and seals it again.

The newest password is bound to all the rest of its row (`vault`), so every change of the row seals
it again, and opening it detects any alteration by others. One key seals all of a row: a change of a
row with an older key seals its older versions again too. So a key is needed exactly as long as some
row has its number.

All functions raise `DatabaseRefused` for a row that was tampered with.
"""

import struct

from pwserver.errors import DatabaseRefused
from workers.book import history
from workers.book.history import OlderVersion
from workers.book.models import UserRow
from workers.book.vault import Vault, newest_associated_data, older_associated_data

NO_SUCH_VALUE = (AttributeError, TypeError, UnicodeEncodeError, struct.error)
"""The errors that a tampered column causes, for example a value of another type."""


def open_newest(vault: Vault, user: UserRow) -> str:
    """Return a user's newest password."""
    try:
        return vault.open(user.sealed, user.key_id, newest_associated_data(user))
    except (DatabaseRefused, *NO_SUCH_VALUE) as error:
        raise _altered(user, error) from None


def open_version(vault: Vault, user: UserRow, version: int) -> tuple[str, int] | None:
    """Return a version of a user's password and when it was saved; None if it is not kept."""
    newest = open_newest(vault, user)
    if version == user.version:
        return newest, user.saved_at_ms
    older = history.find(user.older, version)
    return None if older is None else (_open_older(vault, user, older), older.saved_at_ms)


def open_all(vault: Vault, user: UserRow) -> None:
    """Open every version of a user's password, to check that it opens."""
    open_newest(vault, user)
    if user.older is None:
        return
    try:
        older = history.unpack(user.older)
    except NO_SUCH_VALUE as error:
        raise _altered(user, error) from None
    for each in older:
        _open_older(vault, user, each)


def seal(vault: Vault, password: str, user: UserRow) -> UserRow:
    """Return the row with a password sealed as its newest, with the vault's key."""
    user = user._replace(key_id=vault.key_id)
    return user._replace(sealed=vault.seal(password, newest_associated_data(user)))


def older_with_newest(vault: Vault, user: UserRow, kept: int) -> bytes | None:
    """Add the newest version to the older ones, and return the last `kept` of them, packed."""
    newest = _seal_older(vault, open_newest(vault, user), user, user.version, user.saved_at_ms)
    return history.add(_reseal_older(vault, user), newest, kept)


def reseal(vault: Vault, user: UserRow, labels: str | None) -> UserRow:
    """Return the row with these labels, sealed with the vault's key."""
    password = open_newest(vault, user)
    return seal(vault, password, user._replace(labels=labels, older=_reseal_older(vault, user)))


def _reseal_older(vault: Vault, user: UserRow) -> bytes | None:
    """Return a user's older versions, sealed with the vault's key."""
    if user.key_id == vault.key_id:
        return user.older
    return history.pack(
        _seal_older(vault, _open_older(vault, user, each), user, each.version, each.saved_at_ms)
        for each in history.unpack(user.older)
    )


def _open_older(vault: Vault, user: UserRow, older: OlderVersion) -> str:
    try:
        return vault.open(older.sealed, older.key_id, older_associated_data(user, older))
    except (DatabaseRefused, struct.error) as error:
        raise _altered(user, error) from None


def _seal_older(
    vault: Vault, password: str, user: UserRow, version: int, saved_at_ms: int
) -> OlderVersion:
    older = OlderVersion(version, vault.key_id, saved_at_ms, b"")
    return older._replace(sealed=vault.seal(password, older_associated_data(user, older)))


def _altered(user: UserRow, error: Exception) -> DatabaseRefused:
    reason = error if isinstance(error, DatabaseRefused) else "a column has no such value."
    return DatabaseRefused(f"the password of user {user.id} cannot be given out: {reason}")
