"""Chooses where a book is kept."""

from pwserver.config import StoreSettings
from pwserver.errors import ConfigError
from workers.storage.sqlite.store import SqliteStore
from workers.storage.store import Store


def store_of(settings: StoreSettings) -> Store:
    """Return the store that the settings name; raise `ConfigError` if it cannot be had."""
    if not settings.server:
        return SqliteStore(settings.path)
    try:
        import psycopg  # noqa: PLC0415 - a book in a file has no need of it

        from workers.storage.postgres.store import PostgresStore  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"a database on a server needs psycopg ({error}): pip install 'pwserver[postgres]'"
        ) from None
    try:
        psycopg.conninfo.conninfo_to_dict(settings.server)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"database is no URL of a PostgreSQL server: {reason}.") from None
    return PostgresStore(settings.server)
