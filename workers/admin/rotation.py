"""Changes the key that passwords are sealed with; the service may be running.

    add       puts a new key into the key file; nothing uses it yet
    rotate    seals with the newest key from now on, and seals the rows of older keys again
    retire    removes a key that no row needs any more
    protect   seals the key file with a passphrase, or no longer

A rotation can be killed at any moment and run again, because each row says which key it is sealed
with. It seals a few rows at a time, and rests in between so that the service can work. A row that
was changed meanwhile is left to the next pass.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

from peewee import fn

from pwserver.errors import AdministrationRefused, DatabaseRefused
from pwserver.limits import TICK_S
from pwserver.secret import Secret
from workers.admin.administration import Administration
from workers.book import rows
from workers.book.keyring import Wrapping, changing_keyring, replace_keyring
from workers.book.models import Key, User, UserRow, stored_user
from workers.book.vault import Vault
from workers.storage.operations import NONCE_SPAN, nonce
from workers.storage.store import OpenBook

_ROWS_AT_A_TIME = 64
_REST = 12
"""How long a rotation rests beside a running service, as a multiple of its working time."""

_NOTICED_S = 1.0
"""How long after a change of the key a worker may seal with the old one: a worker checks once a
tick, and one that stands still for longer gets no work."""

_SETTLE_S = 10.0
"""How long workers may keep adding rows of an older key before the rotation fails."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and of all rows."""


def key_uses() -> dict[int, int]:
    """Return the number of rows that each key seals; keys without rows are left out."""
    query = User.select(User.key_id, fn.COUNT(User.id)).group_by(User.key_id).tuples()
    return dict(query.iterator())


def add_key(administration: Administration) -> int:
    """Put a new key into the key file; return its number."""
    path = administration.settings.key_path
    with changing_keyring(path, administration.keyring) as keyring:
        more = keyring.with_new_key()
        administration.record("key change", "key add", must_be=False, key=more.newest.id)
        replace_keyring(path, more)
    return more.newest.id


def protect(administration: Administration, passphrase: Secret[str] | None) -> None:
    """Seal the key file with a passphrase, or write it unsealed for None."""
    path = administration.settings.key_path
    wrapping = None if passphrase is None else Wrapping.of(passphrase)
    with changing_keyring(path, administration.keyring) as keyring:
        administration.record("key change", "key protect" if wrapping else "key unprotect")
        replace_keyring(path, dataclasses.replace(keyring, wrapping=wrapping))


def rotate(
    administration: Administration, progress: Progress, *, beside_service: bool
) -> list[int]:
    """Seal all rows with the newest key; return the ids of rows that do not open, left as they are.

    Beside a service, it rests after some rows, and ends only when no worker can still seal with an
    older key. Raises `AdministrationRefused` if a worker keeps sealing with an older key.
    """
    keyring, book = administration.keyring, administration.book
    key = keyring.newest
    if administration.sealing_key() != key.id:
        _refuse_lacking(book, key.id)
        with administration.deciding(sealing_key=key.id):
            administration.record("key change", "key rotate", must_be=False, key=key.id)
            Key.insert(
                id=key.id, check_value=key.check_value, seals=True
            ).on_conflict_ignore().execute()
            Key.update(seals=Key.id == key.id).execute()
    vault, refused = Vault(keyring, key.id), set[int]()
    total, done = _left(key.id), 0
    progress(done, total)
    noticed_at = time.monotonic() + (_NOTICED_S if beside_service else 0.0)
    settled_at = None
    while True:
        for count in _pass(book, vault, refused, rests=beside_service):
            done += count
            progress(min(done, total), total)
        all_noticed = time.monotonic() >= noticed_at  # check before counting the rows left
        left = _left(key.id) - len(refused)
        if left <= 0 and all_noticed:
            return sorted(refused)
        settled_at = settled_at or time.monotonic() + _SETTLE_S
        if time.monotonic() > settled_at:
            raise AdministrationRefused(
                f"{left} passwords are still sealed with an older key: the service goes on using "
                "it. See in its log why it cannot read the key file; then rotate again."
            )
        time.sleep(TICK_S)


def _refuse_lacking(book: OpenBook, key_id: int) -> None:
    """Raise `AdministrationRefused` if a host has not got a key: it could read no more of this."""
    until = time.monotonic() + _NOTICED_S
    while hosts := book.hosts_lacking(key_id):
        if time.monotonic() > until:
            raise AdministrationRefused(
                f"key {key_id} is not in the key file of {', '.join(hosts)}. Copy the key file "
                "there first; nothing was done."
            )
        time.sleep(TICK_S)


def _left(key_id: int) -> int:
    return int(User.select().where(User.key_id != key_id).count())


def _pass(book: OpenBook, vault: Vault, refused: set[int], *, rests: bool) -> Iterator[int]:
    """Seal the rows of other keys again, once each; yield the number of each group."""
    others = (
        User.select(*book.user_columns).where((User.id > 0) & (User.key_id != 0)).order_by(User.id)
    )
    columns = {User.key_id: 0, User.sealed: b"", User.older: b""}
    as_it_was = (User.id == 0) & (fn.SUBSTR(User.sealed, *NONCE_SPAN) == b"")
    update = User.update(columns).where(as_it_was)
    began = time.monotonic()
    for page in book.pages(others, vault.key_id, at_a_time=_ROWS_AT_A_TIME):
        changes = list(_changes(vault, map(stored_user, page), refused))
        began += book.change_rows(update, changes)  # waiting for the writer is not work
        yield len(changes)
        if rests:
            time.sleep(_REST * (time.monotonic() - began))
        began = time.monotonic()


def _changes(
    vault: Vault, found: Iterable[UserRow], refused: set[int]
) -> Iterator[tuple[int | bytes | None, ...]]:
    for user in found:
        try:
            resealed = rows.reseal(vault, user, user.labels)
        except DatabaseRefused:
            refused.add(user.id)
        else:
            yield resealed.key_id, resealed.sealed, resealed.older, user.id, nonce(user.sealed)


def retire(administration: Administration, key_id: int) -> None:
    """Remove a key from the database and the key file; raise `AdministrationRefused`.

    After the key is deleted from the database, the writer accepts no row that is sealed with it.
    Only then is the number of its rows final; if there are any, the key is put back.
    """
    path, keyring = administration.settings.key_path, administration.keyring
    if key_id not in keyring.keys:
        raise AdministrationRefused(f"there is no key {key_id} in {path}.")
    if key_id == administration.sealing_key() or len(keyring.keys) == 1:
        raise AdministrationRefused(
            f"key {key_id} is the one that passwords are sealed with; add another and rotate first."
        )
    if key_id == keyring.newest.id:
        raise AdministrationRefused(
            f"key {key_id} is the newest, and the next one would get its number; add that first."
        )
    needed = _uses(key_id)
    if not needed:
        administration.record("key change", "key retire", must_be=False, key=key_id)
        with administration.book.changing():  # what is being committed with it is counted below
            Key.delete().where(Key.id == key_id).execute()
        needed = _uses(key_id)
        if needed:
            Key.create(id=key_id, check_value=keyring.keys[key_id].check_value, seals=False)
    if needed:
        raise AdministrationRefused(
            f"{needed} passwords are sealed with key {key_id} yet; run `pwserver key rotate` first."
        )
    with changing_keyring(path, keyring) as now:
        replace_keyring(path, now.without(key_id))


def _uses(key_id: int) -> int:
    return int(User.select().where(User.key_id == key_id).count())
