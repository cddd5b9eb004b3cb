"""Makes and checks the service's files before anything uses them."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pwserver import trust
from pwserver.config import StoreSettings
from pwserver.errors import AuditRefused, DatabaseRefused, KeyRefused
from workers.admin.passphrase import open_keyring
from workers.auth.applications import note_revisions
from workers.auth.revisions import RevisionFile
from workers.book.keyring import Keyring, create_keyring
from workers.book.models import Key
from workers.storage.stores import store_of

log = logging.getLogger(__name__)


def prepare(settings: StoreSettings, *, to_serve: bool = False) -> tuple[Keyring, list[str]]:
    """Make the key file and the database if they are missing; otherwise check them.

    A service also needs the newest key that was sealed with; for `key rotate` it may be missing.

    Returns the keys, and sentences about what was made. Raises a `StoreError` that says what to do,
    or a `ConfigError` if two settings name the same file.
    """
    settings.check_files()
    store = store_of(settings)
    store.check_can_be_made()
    _check_record(settings)
    made: list[str] = []
    makes_key = False
    if not trust.is_there(settings.key_path):
        if store.holds_a_book():
            store.check_is_a_book()  # if it is no book, say that, not "no key"
        else:
            create_keyring(settings.key_path)
            makes_key = True
            settings.revisions_path.unlink(missing_ok=True)  # of a book that had another key
            made.append(
                f"Made the key file {settings.key_path}. Keep a copy of it in a safe place: "
                "without it no saved password can be read."
            )
    keyring = open_keyring(settings)
    fresh = not store.holds_a_book()
    try:
        store.check(keyring)
    except KeyRefused:
        if makes_key:  # another host has made the book since, with another key
            settings.key_path.unlink()
            raise KeyRefused(
                f"another host has just made {settings.book_name}. Copy its key file to "
                f"{settings.key_path}, for its owner alone, and start again."
            ) from None
        raise
    _check_decisions(settings, keyring, to_serve=to_serve)
    if fresh:
        made.append(f"Made the database {settings.book_name}.")
    return keyring, made


def check_keys(settings: StoreSettings) -> None:
    """Open the key file, if there is one: it may be sealed with a passphrase that is asked for."""
    settings.check_files()
    if trust.is_there(settings.key_path):
        open_keyring(settings)


def _check_decisions(settings: StoreSettings, keyring: Keyring, *, to_serve: bool) -> None:
    """Note what was decided last, and refuse to serve a database that lacks the newest key."""
    file = RevisionFile(settings.revisions_path, keyring)
    with store_of(settings).administered(keyring) as book, book.changing():
        try:
            note_revisions(file, book, keyring.for_purpose("application"))
        except OSError as error:
            log.warning("%s cannot be written: %s", settings.revisions_path, error.strerror)
        known = file.revisions.sealing_key
        if to_serve and not Key.select().where(Key.id == known).exists():
            advice = "Run `pwserver key rotate`, which seals everything with the newest key."
            if known not in keyring.keys:
                advice = (
                    "The key file lacks it as well: put the newest one back. If there is none, "
                    f"remove {settings.revisions_path}."
                )
            raise KeyRefused(
                f"{settings.book_name} does not have key {known}, which passwords were sealed with "
                f"before: an older copy was put back, or somebody has changed it. {advice}"
            )


def _check_record(settings: StoreSettings) -> None:
    """Raise `AuditRefused` if the audit record belongs to another user, or others may lock it.

    If it cannot be written, the service reports that later and still does everything but give out
    passwords.
    """
    for path, private in ((settings.audit_path, False), (settings.audit_head_path, True)):
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            reason = trust.distrust(found, path, os.geteuid(), private=private)
            if reason and not trust.not_regular(found):
                raise AuditRefused(f"the audit record {path} {reason}")


@contextlib.contextmanager
def owners_rights(settings: StoreSettings) -> Iterator[None]:
    """Run a root command with the rights of the book's owner. Does nothing for other users.

    The owner is that of the database, or of its folder if there is no database yet. So all files
    that a command makes belong to that user, and the service can use them. In a folder in which
    everybody may make files, root uses only its own database, because another user may have put a
    file there for root to use. Raises `DatabaseRefused`.
    """
    if os.geteuid() != trust.ROOT:
        yield
        return
    try:
        path = Path(os.path.realpath(settings.path))
        folder = os.stat(path.parent)
        owner = path.parent if not path.exists() else path
        user = os.stat(owner).st_uid
    except OSError as error:
        raise DatabaseRefused(f"{settings.path} cannot be used: {error.strerror}.") from None
    whose = f"{settings.path} belongs to {trust.name_of(user)}"
    if folder.st_mode & 0o002:
        if owner == path and user != trust.ROOT:
            raise DatabaseRefused(
                f"{whose}, in a folder in which everybody may make files; there root uses only its "
                "own. Run this as that user."
            )
        yield
        return
    with trust.rights_of(owner):
        if not os.access(owner, os.R_OK, effective_ids=True):
            raise DatabaseRefused(f"{whose}, who may not use it there.")
        yield
