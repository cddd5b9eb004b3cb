"""The tables in PostgreSQL, and what is checked before they are used.

Text is compared by its bytes (`COLLATE "C"`), as SQLite does. Request ids are bytea, because a NUL
is legal in JSON, and not in PostgreSQL's text.
"""

import contextlib
from collections.abc import Iterator, Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pwserver.errors import DatabaseRefused, KeyRefused
from workers.book.keyring import INTEGRITY_ID
from workers.book.models import SCHEMA_VERSION
from workers.storage.movable import MARK_TABLE, READ_MARK, Mark
from workers.storage.operations import CheckValues

LOCK_KEYS = 0x7077537601
"""The advisory lock of the keys: saves share it, and who retires a key takes it alone."""

LOCK_SERVICE = 0x7077537603
"""The advisory lock that every service shares while it is connected."""

_LOCK_MAKE = 0x7077537602
"""The advisory lock of who makes the tables, for hosts that start at the same moment."""

LOCK_TIMEOUT = "SET lock_timeout = '10s'"
"""How long a command waits for its turn."""

_CONNECT_S = 5
_OLDEST = 140_000  # the first that knows client_connection_check_interval

_TABLES = """
CREATE TABLE pwserver (version int NOT NULL, generation bigint NOT NULL DEFAULT 1);
CREATE TABLE "user" (
    id bigint PRIMARY KEY, key_id int NOT NULL, sealed bytea NOT NULL, saved_at_ms bigint NOT NULL,
    book int NOT NULL DEFAULT 0, version int NOT NULL DEFAULT 1, username text COLLATE "C",
    labels text, older bytea);
CREATE UNIQUE INDEX user_name ON "user" (book, username) WHERE username IS NOT NULL;
CREATE INDEX user_generated ON "user" (book, id) WHERE username IS NULL AND book <> 0;
CREATE TABLE request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, book int NOT NULL,
    request_id bytea NOT NULL, fingerprint bigint NOT NULL, user_id bigint NOT NULL,
    version int NOT NULL, saved_at_ms bigint NOT NULL, UNIQUE (book, request_id));
CREATE TABLE key (id int PRIMARY KEY, check_value bytea NOT NULL, seals boolean NOT NULL);
CREATE TABLE application (
    id int PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, book int NOT NULL, may text NOT NULL,
    created_at_ms bigint NOT NULL, token_hash bytea, previous_hash bytea, verifier bytea,
    previous_verifier bytea, certificate bytea, previous_certificate bytea,
    previous_until_ms bigint NOT NULL, expires_ms bigint NOT NULL, lifetime_ms bigint NOT NULL,
    networks text NOT NULL, users_max bigint NOT NULL, saves_per_s int NOT NULL,
    connections_max int NOT NULL, revision int NOT NULL, seal bytea NOT NULL);
CREATE TABLE writer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, users bigint NOT NULL DEFAULT 0,
    batch bigint NOT NULL DEFAULT 0, epoch bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT now(), host text NOT NULL DEFAULT '',
    keys int[] NOT NULL DEFAULT '{}', results text NOT NULL DEFAULT '')
    WITH (fillfactor = 10);
CREATE SEQUENCE worker_serial;
"""


def with_timeout(conninfo: str) -> str:
    """Return how to connect for a command, which waits for the server, but not for ever."""
    own = conninfo_to_dict(conninfo)
    more: dict[str, str | int] = {"application_name": "pwserver", "connect_timeout": _CONNECT_S}
    return make_conninfo(conninfo, **{name: more[name] for name in more if name not in own})


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection]:
    """Connect to a database, without a transaction; raise `DatabaseRefused` for all that fails."""
    try:
        with psycopg.connect(with_timeout(conninfo), autocommit=True) as connection:
            connection.execute(LOCK_TIMEOUT)
            yield connection
    except psycopg.Error as error:
        raise DatabaseRefused(why(error)) from None


def prepare(conninfo: str, keys: CheckValues) -> None:
    """Check the server and the tables, and make them if the database is empty.

    Raises a `StoreError` that says in a sentence what is wrong, and then has changed nothing.
    """
    with connected(conninfo) as connection, connection.transaction():
        lock_making(connection)
        check_server(settings(connection))
        found = tables(connection)
        if not found:
            make_tables(connection)
            sealing = list(keys)[-1]
            for key_id in (INTEGRITY_ID, sealing):
                values = (key_id, keys[key_id], key_id == sealing)
                connection.execute("INSERT INTO key VALUES (%s, %s, %s)", values)
            return
        check_tables(connection, found)
        check_keys(connection, keys)


def lock_making(connection: psycopg.Connection) -> None:
    """Keep others from making tables until the end of the transaction."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_MAKE,))


def make_tables(connection: psycopg.Connection) -> None:
    """Make all tables, without a key."""
    connection.execute(_TABLES)
    connection.execute("INSERT INTO pwserver VALUES (%s)", (SCHEMA_VERSION,))


def why(error: Exception) -> str:
    """Return a sentence about an error of the server. It has no password in it."""
    text = " ".join(str(error).split())
    return f"the PostgreSQL server cannot be used: {text.rstrip('.?') or type(error).__name__}."


def check_server(settings: Mapping[str, str]) -> None:
    """Raise `DatabaseRefused` for a server that may lose a commit, or cannot take one."""
    if int(settings["server_version_num"]) < _OLDEST:
        raise DatabaseRefused(f"the PostgreSQL server is older than version {_OLDEST // 10000}.")
    if settings["fsync"] == "off":
        raise DatabaseRefused(
            "the PostgreSQL server has fsync=off: what it has committed may be lost when the power "
            "fails. Set it to on."
        )
    if settings["synchronous_commit"] not in ("on", "remote_apply"):
        raise DatabaseRefused(
            f"PostgreSQL has synchronous_commit={settings['synchronous_commit']}: what it has "
            "committed may be lost. Set it to on, for the server, the database and the user."
        )
    if settings["server_encoding"] != "UTF8":
        raise DatabaseRefused(
            f"the database has the encoding {settings['server_encoding']}; it must be UTF8. Make "
            "another one: createdb --encoding UTF8 --template template0."
        )
    if "on" in (settings["transaction_read_only"], settings["in_hot_standby"]):
        raise DatabaseRefused(
            "this PostgreSQL server is read-only. Name the primary, or all hosts and "
            "target_session_attrs=read-write."
        )


def settings(connection: psycopg.Connection) -> dict[str, str]:
    """Return the settings of a server and of this connection that `check_server` needs."""
    names = ["fsync", "synchronous_commit", "server_encoding", "transaction_read_only"]
    names += ["in_hot_standby", "server_version_num"]
    select = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
    return {_text(name): _text(value) for name, value in connection.execute(select, (names,))}


def _text(value: str | bytes) -> str:
    """Return a text, which psycopg gives as bytes from a database that is not UTF-8."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def tables(connection: psycopg.Connection) -> set[str]:
    """Return the names of the tables in a database."""
    select = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    rows = connection.execute(select)
    return {_text(name) for (name,) in rows}


def check_tables(connection: psycopg.Connection, found: set[str]) -> None:
    """Raise `DatabaseRefused` for tables that are not to be used as a password book.

    They are of another program or version, or the book was moved, or is not whole yet.
    """
    check_version(connection, found)
    if mark := mark_of(connection, found):
        raise DatabaseRefused(mark.sentence("this database"))


def mark_of(connection: psycopg.Connection, found: set[str]) -> Mark | None:
    """Return the mark that a move has left among the tables, or None."""
    if MARK_TABLE not in found:
        return None
    row = connection.execute(READ_MARK).fetchone()
    return None if row is None else Mark(*row)


def check_version(connection: psycopg.Connection, found: set[str]) -> None:
    """Raise `DatabaseRefused` for the tables of another program or version."""
    row = None
    if "pwserver" in found:
        row = connection.execute("SELECT version FROM pwserver").fetchone()
    if row is None:
        raise DatabaseRefused(
            "this database belongs to another program. It was not touched; name another database."
        )
    if row[0] != SCHEMA_VERSION:
        raise DatabaseRefused(
            f"the database has schema version {row[0]}; this pwserver knows version "
            f"{SCHEMA_VERSION} alone. It was not touched; use the pwserver that made it."
        )


def check_keys(connection: psycopg.Connection, keys: CheckValues) -> None:
    """Raise `KeyRefused` if a key of the book is missing on this host, or is another one."""
    rows = connection.execute("SELECT id, check_value FROM key ORDER BY id").fetchall()
    wrong = [key_id for key_id, value in rows if keys.get(key_id) != bytes(value)]
    if wrong and wrong[0] not in keys:
        raise KeyRefused(
            f"the database needs key {wrong[0]}, which the key file of this host lacks. Put it "
            "back from your backup, or from another host."
        )
    if wrong:
        raise KeyRefused("the key is not the one that the database was sealed with.")
