"""Checks a database before it is used as a password book, and says what is wrong with it.

Nothing here changes a database. The service calls the checks at its start, and the administrator's
commands when they open a database.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
from peewee import DatabaseError
from playhouse.apsw_ext import APSWDatabase

from pwserver.errors import DatabaseRefused, KeyRefused, SqliteRefused, StorageFailed
from workers.book.keyring import INTEGRITY_ID
from workers.book.models import SCHEMA_VERSION, Key
from workers.storage.movable import MARK_TABLE, READ_MARK, Mark
from workers.storage.operations import CheckValues

SQLITE_VERSION_MIN = (3, 51, 3)
"""Every SQLite from 3.7.0 to 3.51.2 has the WAL-reset bug (https://sqlite.org/wal.html): with two
connections a checkpoint can lose committed pages."""

APPLICATION_ID = 0x70775376  # "pwSv", in the file's header: marks a database of pwserver


def check_sqlite(version: str = "") -> None:
    """Raise `SqliteRefused` for a SQLite that can lose committed data."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < SQLITE_VERSION_MIN:
        wanted = ".".join(map(str, SQLITE_VERSION_MIN))
        raise SqliteRefused(
            f"SQLite {version} can lose committed data (the WAL-reset bug, sqlite.org/wal.html); "
            f"{wanted} or newer is needed. Run: pip install --upgrade apsw"
        )


def run_nothing_of(connection: apsw.Connection) -> None:
    """Run no trigger of a database and use no view: it has none, unless somebody has added one."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)


def is_empty(database: APSWDatabase) -> bool:
    """Tell whether a database has no tables and no application id yet."""
    return not (database.get_tables() or database.pragma("application_id"))


LAST_COMMIT_THAT_UPGRADES = "99506dd"
"""The commit that brings databases of development, schema versions 1 to 3, to version 4."""


def check_schema(database: APSWDatabase, path: Path) -> None:
    """Raise `DatabaseRefused` for a database that is not to be used as a password book.

    It is of another program or schema version, or it was moved, or is not whole yet.
    """
    check_version(database, path)
    if mark := mark_of(database):
        raise DatabaseRefused(mark.sentence(str(path)))


def mark_of(database: APSWDatabase) -> Mark | None:
    """Return the mark that a move has left, or None."""
    if MARK_TABLE not in database.get_tables():
        return None
    found = database.execute_sql(READ_MARK).fetchone()
    return None if found is None else Mark(*found)


def check_version(database: APSWDatabase, path: Path) -> None:
    """Raise `DatabaseRefused` for a database of another program or schema version.

    No release had another schema version, so nothing here upgrades one.
    """
    if database.pragma("application_id") != APPLICATION_ID:
        raise DatabaseRefused(
            f"{path} is a database of another program. It was not touched; choose another "
            "file with --database."
        )
    version = int(database.pragma("user_version"))
    if version == SCHEMA_VERSION:
        return
    carry_over = "use the pwserver that made it"
    if 1 <= version < SCHEMA_VERSION:
        carry_over = (
            "it was made by a pwserver under development. To carry it over, run `pwserver setup` "
            f"of its commit {LAST_COMMIT_THAT_UPGRADES} on it, then use this one"
        )
    raise DatabaseRefused(
        f"{path} has schema version {version}; this pwserver knows version {SCHEMA_VERSION} alone. "
        f"It was not touched; {carry_over}."
    )


def check_keys(path: Path, keys: CheckValues) -> None:
    """Raise `KeyRefused` if the database is sealed with a key that is missing or different."""
    rows = list(Key.select(Key.id, Key.check_value).order_by(Key.id))
    wrong = [row.id for row in rows if keys.get(row.id) != bytes(row.check_value)]
    if not wrong:
        return
    if wrong == [INTEGRITY_ID]:
        raise KeyRefused(
            f"the integrity key in the key file is not the one that {path} was made with. Put the "
            "key file back from your backup."
        )
    if len(wrong) < len(rows) and wrong[0] not in keys:
        raise KeyRefused(
            f"{path} needs key {wrong[0]}, which the key file lacks. Put it back from your backup."
        )
    raise KeyRefused(
        f"the key is not the one that {path} was sealed with. Put the right key file back "
        "from your backup, or name it with --key-file."
    )


def check_pages(database: APSWDatabase, path: Path) -> None:
    """Raise `DatabaseRefused` if the database is damaged."""
    if found := damages(database, thorough=False):
        raise DatabaseRefused(
            f"{path} is damaged: {found[0]}. It was not changed. Restore it from a backup; "
            "`pwserver check` says what can still be read."
        )


def damages(database: APSWDatabase, *, thorough: bool) -> list[str]:
    """Return what SQLite finds wrong with the pages; if `thorough`, with the indexes as well."""
    connection: apsw.Connection = database.connection()
    pragma = "integrity_check(10)" if thorough else "quick_check(1)"
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}")]
    except apsw.CorruptError as error:
        return [str(error)]
    return [" ".join(finding.split()) for finding in found if finding != "ok"]


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `DatabaseRefused` or `StorageFailed` that says what to do."""
    try:
        yield
    except (DatabaseError, apsw.Error) as error:
        reason = str(error.__cause__ or error)
        cause = error if isinstance(error, apsw.Error) else error.__cause__ or error.__context__
        if isinstance(cause, apsw.IOError | apsw.FullError):
            raise StorageFailed(
                f"{path} cannot be read or written: {reason}. See to the disk, which may be full, "
                "then start again."
            ) from None
        if isinstance(cause, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
            raise DatabaseRefused(
                f"{path} cannot be opened and written to: {reason}. See to the permissions of it "
                "and of its folder, and whether its file system is mounted read-only."
            ) from None
        raise DatabaseRefused(
            f"{path} cannot be used as a password book: {reason}. It was not changed; restore "
            "it from a backup, or choose another file with --database."
        ) from None
