"""An image as the service opens it when the power is back, and what is found in it.

What opens it is what the service opens it with: the listener's preparations, and the `Store` of the
worker that writes, with its count. Then everything in it is read and opened with the key, one more
save is committed, and the audit record goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused
from tests.support.book_model import User
from tests.trials.book import damage, opened_user, user_rows
from tests.trials.powerloss.ledger import Keys
from tests.trials.powerloss.traced import DATABASE
from workers.admin.setup import prepare
from workers.audit.reading import record_files
from workers.audit.record import AuditLog
from workers.audit.verification import verify
from workers.auth.applications import is_genuine
from workers.auth.revisions import RevisionFile, Revisions
from workers.book import models
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.vault import Vault
from workers.storage.sqlite.database import Store

REQUESTS_KEPT_MS = 86_400_000


class Audit(StrEnum):
    """What the verification says of an audit record, which is never synced."""

    NONE = "there is none"
    GENUINE = "all genuine"
    CUT = "the end was cut"
    TORN = "lines are no records, or records are missing"


@dataclass(frozen=True)
class Found:
    """What is in an image."""

    unnamed: list[str]
    named: dict[str, User]
    keys: Keys
    applications: list[str]
    wrong: list[str]
    """What no book may be, whatever was saved in it."""

    audit: Audit


def opened(folder: Path) -> Found:
    """Return what is in an image; raise as the service does where it cannot be opened."""
    settings = StoreSettings(database=str(folder / DATABASE))
    keyring, _ = prepare(settings)
    store = Store(settings.path, keyring.check_values, REQUESTS_KEPT_MS)
    try:
        store.count_users()
        book = _Book(store, keyring, RevisionFile(settings.revisions_path, keyring).read())
    finally:
        store.close()
    wrong, audit = book.wrong, _audit(settings, keyring)
    wrong += _cannot_be_recorded(settings, keyring)
    return Found(book.unnamed, book.named, book.keys, book.applications, wrong, audit)


class _Book:
    """All that is read from the database, and what is wrong with it."""

    def __init__(self, store: Store, keyring: Keyring, revisions: Revisions) -> None:
        self._revisions = revisions
        self.unnamed: list[str] = []
        self.named: dict[str, User] = {}
        self.wrong = list(damage(store.connection, "integrity_check"))
        self._vault = Vault(keyring)
        self._users = list(user_rows(store.connection))
        if len(self._users) != store.users:
            self.wrong.append(f"{store.users} users are counted, and {len(self._users)} are there")
        for user in self._users:
            self._open(user)
        self.keys = self._keys(store, keyring)
        self.applications = list(self._applications(keyring))
        self._save_one_more(store)

    def _open(self, user: models.UserRow) -> None:
        try:
            found = opened_user(self._vault, user)
        except DatabaseRefused as error:
            self.wrong.append(str(error))
            return
        if user.username is None:
            self.unnamed.append(found.versions[user.version])
        else:
            self.named[user.username] = found

    def _keys(self, store: Store, keyring: Keyring) -> Keys:
        in_database = list(store.keys())
        used = frozenset(user.key_id for user in self._users)
        if not used <= set(in_database):
            self.wrong.append("a user is sealed with a key that the database does not know")
        in_file = frozenset(keyring.keys) | {INTEGRITY_ID}
        return Keys(in_file, frozenset(in_database), in_database[-1], used)

    def _applications(self, keyring: Keyring) -> Iterator[str]:
        key = keyring.for_purpose("application")
        for columns in models.Application.select(*models.APPLICATION).tuples().iterator():
            row = models.ApplicationRow(*columns)
            if not self._revisions.allows(row):
                self.wrong.append(f"the application {row.name} is taken for an old copy")
            elif is_genuine(row, key):
                yield row.name
            else:
                self.wrong.append(f"the application {row.name} is not genuine")

    def _save_one_more(self, store: Store) -> None:
        user_id, now_ms = store.newest_id() + 1, time.time_ns() // 1_000_000
        vault = Vault(self._vault.keyring, self.keys.sealing)
        ids = range(user_id, user_id + 1)
        store.commit(vault.seal_rows(["one more"], ids, models.COMMON_BOOK, now_ms), [])
        if models.User.select().count() != len(self._users) + 1:
            self.wrong.append("one more save was committed, and is not there")


def _audit(settings: StoreSettings, keyring: Keyring) -> Audit:
    """Return what the verification says of the record as it was found."""
    files = record_files(settings.audit_path).paths
    if not files:
        return Audit.NONE
    verdict = verify(files, settings.audit_head_path, keyring.for_purpose("audit"))
    if verdict.is_genuine:
        return Audit.GENUINE
    is_cut = all(finding.text.startswith(Audit.CUT) for finding in verdict.findings)
    return Audit.CUT if is_cut else Audit.TORN


def _cannot_be_recorded(settings: StoreSettings, keyring: Keyring) -> Iterator[str]:
    """Yield a sentence where the record does not go on."""
    key = keyring.for_purpose("audit")
    log = AuditLog(settings.audit_path, settings.audit_head_path, key)
    log.note(time_ms=0, application=None, address="", action="verify", user=None, outcome="ok")
    if not log.write():
        yield "the audit record cannot be written"
    log.close()
