"""A small book at rest, for tests of backups: its settings, its keys, and what is saved in it."""

from dataclasses import dataclass
from pathlib import Path

from pwserver.config import StoreSettings
from workers.admin.backup import Backup, back_up
from workers.admin.restore import Restored, restore
from workers.admin.setup import prepare
from workers.book.keyring import Keyring
from workers.book.models import COMMON_BOOK
from workers.book.vault import Vault
from workers.storage.sqlite.database import Store

SAVED_AT_MS = 1_770_000_000_000
REQUESTS_KEPT_MS = 86_400_000


@dataclass
class Book:
    """A book in a folder; it numbers its users from 1."""

    settings: StoreSettings
    keyring: Keyring
    users: int = 0

    @property
    def path(self) -> Path:
        """The database."""
        return self.settings.path

    def open(self) -> Store:
        """Open it as the writer does."""
        return Store(self.path, self.keyring.check_values, REQUESTS_KEPT_MS)

    def save(self, store: Store, users: int) -> None:
        """Save so many users more, sealed with the key that seals."""
        ids = range(self.users + 1, self.users + users + 1)
        vault = Vault(self.keyring, list(store.keys())[-1])
        passwords = [f"password of {number}" for number in ids]
        store.commit(vault.seal_rows(passwords, ids, COMMON_BOOK, SAVED_AT_MS), [])
        self.users += users

    def save_and_close(self, users: int) -> None:
        """Save so many users more, and leave the book at rest."""
        store = self.open()
        self.save(store, users)
        store.close()

    def count(self) -> int:
        """Return how many users the database at the path has."""
        store = self.open()
        try:
            store.count_users()
            return store.users
        finally:
            store.close()

    def back_up(self, target: Path) -> Backup:
        """Make a backup."""
        return back_up(self.settings, self.keyring, target, quietly, 0)

    def restore(self, file: Path) -> Restored:
        """Put a backup in the place of the book."""
        return restore(self.settings, self.keyring, file, quietly)


def make_book(folder: Path, users: int) -> Book:
    """Make a book with its key in a folder, and leave it at rest."""
    settings = StoreSettings(database=str(folder / "user_data.db"))
    keyring, _ = prepare(settings)
    book = Book(settings, keyring)
    book.save_and_close(users)
    return book


def quietly(what: str, done: int, total: int) -> None:
    """Show no progress."""
