"""A database of schema version 1, which the first release made, becomes one of version 2."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from pwserver.errors import DatabaseRefused, KeyRefused, StoreError
from tests.books import (
    KEY,
    NOW_MS,
    OTHER_KEY,
    Saving,
    contents,
    make_version_1,
    new_scoreboard,
    next_version,
    open_store,
    rows_of,
    users,
)
from workers import history
from workers.database import APPLICATION_ID, check_database
from workers.models import SCHEMA_VERSION
from workers.names import generated_name
from workers.reading import BookReader, pages_of_users
from workers.vault import MasterKey, Vault
from workers.writing import DELETE, DONE

PASSWORDS = {5: "abc123", 2**62 + 2047: "p\u00e4ssw\u00f6rd \U0001f600", 2**62 + 4095: "x" * 4096}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database as the first release left it after a stop, alone in its folder."""
    made = tmp_path / "user_data.db"
    make_version_1(made, PASSWORDS)
    assert list(tmp_path.iterdir()) == [made]
    return made


def schema(path: Path) -> set[tuple[Any, ...]]:
    """Return the columns of all tables, and the names of all indexes."""
    connection = apsw.Connection(str(path))
    found: set[tuple[Any, ...]] = set(connection.execute("SELECT type, name FROM sqlite_schema"))
    for kind, table in list(found):
        if kind == "table":
            columns = connection.execute(f'PRAGMA table_info("{table}")')
            found |= {(table, *column) for column in columns}
    connection.close()
    return found


def user_version(path: Path) -> Any:
    """Return the schema version that a database has in its header."""
    connection = apsw.Connection(str(path))
    version = connection.pragma("user_version")
    connection.close()
    return version


def test_users_are_there_with_their_passwords(path: Path) -> None:
    """Every user is found by its generated name, as version 1, and its password opens."""
    store = open_store(path)
    store.count_users()
    assert (store.users, store.newest_id()) == (3, 2**62 + 4095)
    reader = BookReader(path, new_scoreboard())
    vault = Vault(KEY)
    for user_id, password in PASSWORDS.items():
        user = reader.find(0, generated_name(user_id))
        assert user is not None
        assert (user.id, user.version) == (user_id, 1)
        assert user.saved_at_ms == NOW_MS + user_id % 100
        assert vault.open(user.sealed, user.id, user.version) == password
    assert [entry.name for entry in reader.page(0, "", "", None, 10)[0]] == [
        generated_name(user_id) for user_id in PASSWORDS
    ]
    store.close()


def test_an_upgraded_database_is_like_a_new_one(path: Path, tmp_path: Path) -> None:
    """It has the tables, columns and indexes of a new one, the new version, and is intact."""
    open_store(path).close()
    fresh = tmp_path / "fresh.db"
    open_store(fresh).close()
    assert schema(path) == schema(fresh)
    assert user_version(path) == SCHEMA_VERSION == 2
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    assert connection.pragma("application_id") == APPLICATION_ID
    connection.close()


def test_upgraded_users_are_changed_as_others_are(path: Path) -> None:
    """New users, new versions of old ones and deletions work, and are there after reopening."""
    vault = Vault(KEY)
    store = open_store(path)
    again = next_version(store, 5, sealed=vault.seal("new", 5, 2), labels="[]")
    named = Saving(username="alice", user_id=6, request_id="r")
    operations = [again, named, named._replace(user_id=7), (DELETE, 2**62 + 2047)]
    assert store.commit(users(8), operations) == [DONE, DONE, (6, 1, 7), DONE]
    store.close()
    store = open_store(path)
    assert [row[0] for row in rows_of(store, "user")] == [5, 6, 8, 2**62 + 4095]
    reader = BookReader(path, new_scoreboard())
    user = reader.find(0, generated_name(5))
    assert user is not None
    assert vault.open(user.sealed, 5, 2) == "new"
    (older,) = history.unpack(user.older)
    assert vault.open(older.sealed, 5, 1) == "abc123"
    store.close()


def test_a_log_of_the_first_release_is_taken_along(path: Path) -> None:
    """A user that was saved just before the first release was killed is there afterwards."""
    killed = apsw.Connection(str(path))
    killed.pragma("wal_autocheckpoint", 0)
    killed.execute("INSERT INTO user VALUES (7, 1, x'00', 7000)")
    saved = {f"{path}{ending}": Path(f"{path}{ending}").read_bytes() for ending in ("", "-wal")}
    killed.close()
    for name, data in saved.items():
        Path(name).write_bytes(data)
    store = open_store(path)
    assert [row[0] for row in rows_of(store, "user")] == [5, 7, 2**62 + 2047, 2**62 + 4095]
    store.close()
    assert user_version(path) == 2


def test_the_console_waits_for_the_upgrade(path: Path) -> None:
    """Until the writer has upgraded it, a database of version 1 is listed as one that is away."""
    assert list(pages_of_users(path, None, 10)) == []
    open_store(path).close()
    assert [[row[0] for row in page] for page in pages_of_users(path, None, 10)] == [
        list(PASSWORDS)
    ]


@pytest.mark.parametrize("there", ["labels", "book"])
def test_an_upgrade_that_fails_leaves_version_1(path: Path, there: str) -> None:
    """Where a step of the upgrade fails, the first or the last, not a byte is changed."""
    connection = apsw.Connection(str(path))
    connection.execute(f'ALTER TABLE user ADD COLUMN "{there}" TEXT')
    connection.close()
    check_refused_untouched(path, DatabaseRefused, f"duplicate column name: {there}")


def test_an_upgrade_that_is_killed_leaves_version_1(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is killed within the upgrade, the next start does it as a whole."""
    moments: list[tuple[str, dict[str, bytes]]] = []

    def note(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        moments.append((statement, contents(path.parent)))
        return True

    def follow(connection: apsw.Connection) -> None:
        connection.exec_trace = note

    monkeypatch.setattr(apsw, "connection_hooks", [follow])
    open_store(path).close()
    monkeypatch.undo()
    statements = [statement.upper() for statement, _ in moments]
    within = moments[statements.index("BEGIN IMMEDIATE") : statements.index("COMMIT;") + 1]
    assert len(within) > 6
    for number, (statement, left) in enumerate(within):
        killed = tmp_path / f"killed {number}" / path.name
        killed.parent.mkdir()
        for name, data in left.items():
            killed.with_name(name).write_bytes(data)
        assert user_version(killed) == 1, statement
        store = open_store(killed)
        assert [row[0] for row in rows_of(store, "user")] == list(PASSWORDS)
        store.close()
        assert user_version(killed) == 2


def test_a_wrong_key_upgrades_nothing(path: Path) -> None:
    """A database of version 1 whose key is not the right one is refused before anything else."""
    for wrong in (OTHER_KEY, MasterKey(2, KEY.secret)):
        check_refused_untouched(path, KeyRefused, "the key is not the one that", wrong)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, 99])
def test_an_unknown_version_is_not_upgraded(path: Path, version: int) -> None:
    """A version that a later release made, or none, is refused by its number."""
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", version)
    connection.close()
    check_refused_untouched(path, DatabaseRefused, f"schema version {version}; .* up to 2")


def test_another_programs_database_is_not_upgraded(path: Path) -> None:
    """Tables and a version that look like ours do not make a database ours."""
    connection = apsw.Connection(str(path))
    connection.pragma("application_id", 77)
    connection.close()
    check_refused_untouched(path, DatabaseRefused, "is a database of another program")


def check_refused_untouched(
    path: Path, refusal: type[StoreError], reason: str, key: MasterKey = KEY
) -> None:
    """Check that a database is refused, by the service as by `setup`, and nothing is changed."""
    before = contents(path.parent)
    for _ in range(2):
        with pytest.raises(refusal, match=reason):
            open_store(path, key)
        with pytest.raises(refusal, match=reason):
            check_database(path, key)
        assert contents(path.parent) == before
