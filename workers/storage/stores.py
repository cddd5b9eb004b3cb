"""Chooses where a book is kept."""

from pwserver.config import StoreSettings
from workers.storage.sqlite.store import SqliteStore
from workers.storage.store import Store


def store_of(settings: StoreSettings) -> Store:
    """Return the store that the settings name."""
    return SqliteStore(settings.path)
