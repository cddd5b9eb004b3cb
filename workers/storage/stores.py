"""Chooses where a book is kept."""

from pwserver.config import StoreSettings
from pwserver.errors import ConfigError
from workers.storage.movable import Movable
from workers.storage.sqlite.moving import SqliteMovable
from workers.storage.sqlite.store import SqliteStore
from workers.storage.store import Store


def store_of(settings: StoreSettings) -> Store:
    """Return the store that the settings name; raise `ConfigError` if it cannot be had."""
    if not settings.server:
        return SqliteStore(settings.path)
    _check_server(settings.server)
    from workers.storage.postgres.store import PostgresStore  # noqa: PLC0415

    return PostgresStore(settings.server)


def movable_of(settings: StoreSettings) -> Movable:
    """Return what `pwserver move` moves, or where to; raise `ConfigError` as well."""
    if not settings.server:
        return SqliteMovable(settings.path)
    _check_server(settings.server)
    from workers.storage.postgres.moving import PostgresMovable  # noqa: PLC0415

    return PostgresMovable(settings.server)


def _check_server(url: str) -> None:
    """Raise `ConfigError` if a database on a server cannot be used from here."""
    try:
        import psycopg  # noqa: PLC0415 - a book in a file has no need of it
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"a database on a server needs psycopg ({reason}): pip install 'pwserver[postgres]'"
        ) from None
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"database is no URL of a PostgreSQL server: {reason}.") from None
