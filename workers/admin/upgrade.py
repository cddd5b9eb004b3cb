"""Bringing a database of an older pwserver up to date, in one transaction: all of it or nothing.

    schema version 1    users without names, one version each
    schema version 2    names, versions, labels; a password was bound to its user, key and version
    schema version 3    applications, several keys; a password is bound to all of its row
    schema version 4    a row that tells which log belongs to the database

So from 2 to 3 every password is sealed again. Each statement here is of its time: it says what was
added then, whatever the models say today.
"""

import os
import struct
from pathlib import Path

import apsw
from playhouse.apsw_ext import APSWDatabase

from pwserver.errors import DatabaseRefused
from workers.book import history, models, rows
from workers.book.history import OlderVersion
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.models import (
    ANY_FINGERPRINT,
    COMMON_BOOK,
    SCHEMA_VERSION,
    STORED_USER,
    Application,
    Generation,
    Request,
    User,
    UserRow,
    sql,
    stored_user,
)
from workers.book.vault import Vault, older_associated_data
from workers.storage import generations
from workers.storage.database import PRAGMAS, holds_a_book, open_and_lock
from workers.storage.validation import check_keys, check_schema, is_empty, refusals
from workers.storage.walk import in_order

_USER_COLUMNS_2 = (
    '"book" INTEGER NOT NULL DEFAULT 0',
    '"version" INTEGER NOT NULL DEFAULT 1',
    '"username" TEXT',
    '"labels" TEXT',
    '"older" BLOB',
)
_KEY_COLUMN_3 = '"seals" INTEGER NOT NULL DEFAULT 1'
_ROWS_AT_A_TIME = 1000
_OWNER_2 = struct.Struct(">QI")  # ids of user and key
_PLACE_2 = struct.Struct(">IQ")  # book and version, where they were not the usual ones


def bring_up_to_date(path: Path, keyring: Keyring) -> bool:
    """Upgrade the database at a path if there is one and it is older; return whether it was.

    Raises a `StoreError` where it cannot be used, or is in use, and changes nothing then.
    """
    if not holds_a_book(path):
        return False
    lock = open_and_lock(path, Path(f"{path}-wal"))
    database = APSWDatabase(os.path.abspath(path), pragmas=PRAGMAS, timeout=1)
    try:
        with refusals(path):
            database.connect()
            connection: apsw.Connection = database.connection()
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            generations.check_log(database, path)
            if is_empty(database):
                return False
            version = check_schema(database, path)
            if version == SCHEMA_VERSION:
                return False
            models.database.initialize(database)
            check_keys(path, keyring.check_values)
            database.pragma("journal_mode", "wal")
            with database.atomic("EXCLUSIVE"):
                if version < 2:
                    _to_2(connection)
                if version < 3:
                    _to_3(database, connection, Vault(keyring, _sealing_key(connection)))
                database.create_tables([Generation])
                generations.make_first(connection)
                database.pragma("user_version", SCHEMA_VERSION)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            return True
    finally:
        database.close()
        os.close(lock)  # not before: closing any descriptor of a file drops SQLite's locks on it


def _sealing_key(connection: apsw.Connection) -> int:
    (key_id,) = connection.execute("SELECT id FROM key").fetchall()[0]
    assert isinstance(key_id, int)
    return key_id


def _to_2(connection: apsw.Connection) -> None:
    for column in _USER_COLUMNS_2:
        connection.execute(f'ALTER TABLE "user" ADD COLUMN {column}')


def _to_3(database: APSWDatabase, connection: apsw.Connection, vault: Vault) -> None:
    connection.execute(f'ALTER TABLE "key" ADD COLUMN {_KEY_COLUMN_3}')
    check_value = vault.keyring.check_values[INTEGRITY_ID]
    connection.execute("INSERT INTO key VALUES (?, ?, 0)", (INTEGRITY_ID, check_value))
    database.create_tables([User, Request, Application])
    connection.execute("UPDATE request SET fingerprint = ?", (ANY_FINGERPRINT,))
    users = User.select(*STORED_USER).where(User.id > 0).order_by(User.id)
    for page in in_order(connection, sql(users), at_a_time=_ROWS_AT_A_TIME, after=-1):
        resealed = [_sealed_for_3(vault, user) for user in map(stored_user, page)]
        connection.executemany(
            'UPDATE "user" SET sealed = ?, older = ? WHERE id = ?',
            [(user.sealed, user.older, user.id) for user in resealed],
        )


def _sealed_for_3(vault: Vault, user: UserRow) -> UserRow:
    """Return a row as it is bound since version 3.

    What does not open stays as it is, and is refused whenever it is asked for.
    """
    try:
        older = history.pack(_older_for_3(vault, user, each) for each in history.unpack(user.older))
        password = vault.open(user.sealed, user.key_id, _place_2(user, user.version))
        return rows.seal(vault, password, user._replace(older=older))
    except (DatabaseRefused, *rows.NO_SUCH_VALUE):
        return user


def _older_for_3(vault: Vault, user: UserRow, older: OlderVersion) -> OlderVersion:
    password = vault.open(older.sealed, older.key_id, _place_2(user, older.version))
    return older._replace(sealed=vault.seal(password, older_associated_data(user, older)))


def _place_2(user: UserRow, version: int) -> bytes:
    """Return what a password was bound to in version 2."""
    place = _OWNER_2.pack(user.id, user.key_id)
    if version != 1 or user.book != COMMON_BOOK:
        place += _PLACE_2.pack(user.book, version)
    return place
