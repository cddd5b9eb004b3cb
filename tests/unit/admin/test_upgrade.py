"""A database of schema version 1 or 2, as older releases left it, becomes one of version 3."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from pwserver.errors import DatabaseRefused, KeyRefused, StoreError
from tests.support.books import (
    BOTH_KEYS,
    KEY,
    KEYRING,
    OTHER_KEY,
    Saving,
    contents,
    keyring_of,
    make_book,
    new_scoreboard,
    open_store,
    rows_of,
    users,
)
from tests.support.older_books import OldUser, make_version_1, make_version_2, saved_at_ms
from workers.admin.upgrade import bring_up_to_date
from workers.book import history, rows
from workers.book.keyring import INTEGRITY_ID, Keyring, MasterKey
from workers.book.models import (
    ANY_FINGERPRINT,
    SCHEMA_VERSION,
    STORED_USER,
    User,
    UserRow,
    sql,
    stored_user,
)
from workers.book.names import generated_name
from workers.book.vault import Vault
from workers.storage.reading import BookReader, pages_of_users
from workers.storage.validation import APPLICATION_ID
from workers.storage.writing import DELETE, DONE, nonce

NAMELESS = [
    OldUser(5, ["abc123"]),
    OldUser(2**62 + 2047, ["p\u00e4ssw\u00f6rd \U0001f600"]),
    OldUser(2**62 + 4095, ["x" * 4096]),
]
NAMED = [
    OldUser(6, ["first"], "alice"),
    OldUser(7, ["5th", "", "7th", "8th"], "Zo\u00eb", '["a","\u00e9"]', oldest=5),
    OldUser(8, ["generated", "and saved over"]),
    OldUser(9, ["in a book of its own"], "alice", "[]", book=3),
    OldUser(10, ["one", "two"], "bob", book=3),
]
REQUESTS = {"r": (7, 8), "s": (6, 1)}
USERS: dict[int, Sequence[OldUser]] = {
    1: NAMELESS,
    2: sorted([*NAMELESS, *NAMED]),
}


def make(path: Path, version: int) -> Path:
    """Make a database as the release of a schema version left it after a stop."""
    if version == 1:
        make_version_1(path, {user.id: user.passwords[0] for user in NAMELESS})
    else:
        make_version_2(path, USERS[2], REQUESTS)
    assert list(path.parent.iterdir()) == [path]
    return path


@pytest.fixture(params=USERS)
def version(request: pytest.FixtureRequest) -> int:
    """Return the schema version to begin with."""
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    """Return a database of that version, alone in its folder."""
    return make(tmp_path / "user_data.db", version)


def run(path: Path, *statements: str) -> None:
    """Run statements on a database, as somebody does who has no key."""
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


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


def find(reader: BookReader, user: OldUser) -> UserRow:
    """Return the row of a user who must be there."""
    found = reader.find(user.book, user.username or generated_name(user.id))
    assert found is not None
    return found


def check_whole(path: Path, users: Sequence[OldUser], keyring: Keyring = KEYRING) -> None:
    """Check that users are in an upgraded book, with every version and what belongs to it."""
    store = open_store(path, keyring)
    assert [row[0] for row in rows_of(store, "user")] == [user.id for user in users]
    reader, vault = BookReader(path, new_scoreboard()), Vault(keyring)
    for user in users:
        found = find(reader, user)
        assert (found.id, found.version, found.book) == (user.id, user.version, user.book)
        assert (found.username, found.labels) == (user.username, user.labels)
        assert found.key_id == KEY.id
        for version, password in enumerate(user.passwords, user.oldest):
            kept = rows.open_version(vault, found, version)
            assert kept == (password, saved_at_ms(user.id, version))
        older = [each.version for each in history.unpack(found.older)]
        assert older == list(range(user.oldest, user.version))
    store.close()


# --- What is there afterwards. ---


def test_users_are_there_with_their_passwords(path: Path, version: int) -> None:
    """Every user is found by its name, with all its versions, and each password opens."""
    assert bring_up_to_date(path, KEYRING)
    check_whole(path, USERS[version])
    store = open_store(path)
    store.count_users()
    assert (store.users, store.newest_id()) == (len(USERS[version]), 2**62 + 4095)
    reader = BookReader(path, new_scoreboard())
    assert [entry.name for entry in reader.page(0, "", "user-", None, 10)[0]] == [
        generated_name(user.id)
        for user in USERS[version]
        if user.username is None and user.book == 0
    ]
    store.close()


def test_an_upgraded_database_is_like_a_new_one(path: Path, tmp_path: Path) -> None:
    """It has the tables, columns and indexes of a new one, the new version, and is intact."""
    bring_up_to_date(path, KEYRING)
    assert list(tmp_path.iterdir()) == [path]
    fresh = tmp_path / "fresh.db"
    open_store(fresh).close()
    assert schema(path) == schema(fresh)
    assert user_version(path) == SCHEMA_VERSION == 4
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.execute("SELECT * FROM key").fetchall() == [
        (INTEGRITY_ID, KEYRING.check_values[INTEGRITY_ID], 0),
        (1, KEY.check_value, 1),
    ]
    connection.close()


def test_upgraded_users_are_changed_as_others_are(path: Path) -> None:
    """New users, new versions of old ones and deletions work, and are there after reopening."""
    bring_up_to_date(path, KEYRING)
    vault = Vault(KEYRING)
    store = open_store(path)
    user = find(BookReader(path, new_scoreboard()), NAMELESS[0])
    later = user._replace(version=2, older=rows.older_with_newest(vault, user, 10), labels="[]")
    sealed = rows.seal(vault, "new", later).sealed
    again = Saving(
        user_id=5, replaced=nonce(user.sealed), version=2, sealed=sealed, labels="[]",
        saved_at_ms=later.saved_at_ms, older=later.older,
    )  # fmt: skip
    named = Saving(username="new", user_id=11, request_id="new")
    operations = [again, named, named._replace(user_id=12), (DELETE, None, 2**62 + 2047)]
    assert store.commit(users(13), operations) == [DONE, DONE, (11, 1, 7), DONE]
    store.close()
    store = open_store(path)
    ids = [row[0] for row in rows_of(store, "user")]
    assert {5, 11, 13, 2**62 + 4095} <= set(ids)
    assert not {12, 2**62 + 2047} & set(ids)
    user = find(BookReader(path, new_scoreboard()), NAMELESS[0])
    assert [rows.open_version(vault, user, version) for version in (1, 2)] == [
        ("abc123", user.saved_at_ms),
        ("new", user.saved_at_ms),
    ]
    store.close()


def test_requests_are_remembered_whatever_they_asked_for(tmp_path: Path) -> None:
    """Their fingerprints were made another way: sent again they save nothing, as before."""
    path = make(tmp_path / "user_data.db", 2)
    bring_up_to_date(path, KEYRING)
    store = open_store(path)
    made = [(*REQUESTS[id], ANY_FINGERPRINT) for id in "rs"]
    again = [Saving(user_id=20, request_id=id, saved_at_ms=saved_at_ms(9, 9)) for id in "rs"]
    assert store.commit([], [*again]) == made
    reader = BookReader(path, new_scoreboard())
    assert [reader.earlier(0, id) for id in "rs"] == made
    store.close()


def test_what_was_sealed_before_is_gone_from_the_file(path: Path, version: int) -> None:
    """What was bound to less than the whole row is overwritten, log and all."""
    connection = apsw.Connection(str(path))
    sealed = [row[0] for row in connection.execute("SELECT sealed FROM user")]
    connection.close()
    assert [text for text in sealed if text not in path.read_bytes() and len(text) < 1000] == []
    bring_up_to_date(path, KEYRING)
    assert list(path.parent.iterdir()) == [path]
    assert [text for text in sealed if text[:40] in path.read_bytes()] == []
    assert len(sealed) == len(USERS[version])


def test_a_book_of_many_users_is_upgraded_whole(tmp_path: Path) -> None:
    """However many there are, none is left out and none done twice."""
    path = tmp_path / "user_data.db"
    many = [OldUser(id, [f"password {id}"]) for id in range(3, 3 + 7 * 2001, 7)]
    make_version_1(path, {user.id: user.passwords[0] for user in many})
    assert bring_up_to_date(path, KEYRING)
    check_whole(path, many)


def test_an_upgrade_seals_with_the_key_of_the_book(path: Path, version: int) -> None:
    """A newer key, added before the upgrade, seals after a rotation and not before."""
    assert bring_up_to_date(path, BOTH_KEYS)
    check_whole(path, USERS[version], BOTH_KEYS)


def test_a_log_of_the_older_release_is_taken_along(path: Path, version: int) -> None:
    """A user that was saved just before that release was killed is there afterwards."""
    killed = apsw.Connection(str(path))
    killed.pragma("wal_autocheckpoint", 0)
    columns = "id, key_id, sealed, saved_at_ms"
    copy = f"INSERT INTO user ({columns}) SELECT 20, key_id, x'00', 7000 FROM user WHERE id = 5"
    killed.execute(copy)
    saved = {f"{path}{ending}": Path(f"{path}{ending}").read_bytes() for ending in ("", "-wal")}
    killed.close()
    for name, data in saved.items():
        Path(name).write_bytes(data)
    assert bring_up_to_date(path, KEYRING)
    store = open_store(path)
    ids = sorted([20, *(user.id for user in USERS[version])])
    assert [row[0] for row in rows_of(store, "user")] == ids
    store.close()


def test_the_console_waits_for_the_upgrade(tmp_path: Path) -> None:
    """Until it is upgraded, a database of version 1 is listed as one that is away."""
    path = make(tmp_path / "user_data.db", 1)
    assert list(pages_of_users(path, None, 10)) == []
    bring_up_to_date(path, KEYRING)
    (page,) = pages_of_users(path, None, 10)
    assert [row[0] for row in page] == [user.id for user in NAMELESS]


# --- What was tampered with before. ---

DAMAGE: dict[str, str] = {
    "sealed": "sealed = zeroblob(46)",
    "an older version": "older = CAST(substr(older, 1, 60) || 'so many bytes' AS BLOB)",
    "older cut short": "older = substr(older, 1, 20)",
    "older of another type": "older = 'a text'",
    "sealed of another type": "sealed = 'a text'",
    "version": "version = 7",
    "version below zero": "version = -1",
    "time below zero": "saved_at_ms = -1",
    "book": "book = 2",
    "id": "id = 4",
    "id below zero": "id = -8",
    "another key": "key_id = 2",
    "a name that is no text": "username = CAST(x'61ff' AS TEXT)",
    "labels that are no text": "labels = CAST(x'ff' AS TEXT)",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_row_that_does_not_open_hinders_nothing(tmp_path: Path, damage: str) -> None:
    """It stays as it is, and is refused whenever it is asked for; all others are upgraded."""
    path = make(tmp_path / "user_data.db", 2)
    run(path, f"UPDATE user SET {DAMAGE[damage]} WHERE id = 8")
    connection = apsw.Connection(str(path))
    columns = "id, key_id, hex(sealed), saved_at_ms, book, version, hex(username), hex(older)"
    odd = f"SELECT {columns} FROM user WHERE id IN (8, 4, -8)"
    before = connection.execute(odd).fetchall()
    connection.close()
    assert len(before) == 1
    assert bring_up_to_date(path, KEYRING)
    connection = apsw.Connection(str(path))
    assert connection.execute(odd).fetchall() == before
    (odd_one,) = connection.execute(f"{sql(User.select(*STORED_USER))} WHERE id IN (8, 4, -8)")
    connection.execute("DELETE FROM user WHERE id IN (8, 4, -8)")
    connection.close()
    with pytest.raises(DatabaseRefused):
        rows.open_newest(Vault(KEYRING), stored_user(odd_one))
    check_whole(path, [user for user in USERS[2] if user.id != 8])


# --- All of it or nothing. ---


def test_nothing_is_done_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    """A database of today, one that is missing, and an empty file are left as they are."""
    path = tmp_path / "user_data.db"
    makers: list[Callable[[], object]] = [
        lambda: None,
        path.touch,
        lambda: make_book(path, users(1)),
    ]
    for make_it in makers:
        make_it()
        before, there = contents(tmp_path), path.exists()
        assert not bring_up_to_date(path, KEYRING)
        assert (contents(tmp_path), path.exists()) == (before, there)


@pytest.mark.parametrize(("version", "there"), [(1, "labels"), (1, "book"), (2, "seals")])
def test_an_upgrade_that_fails_leaves_the_older_version(
    path: Path, version: int, there: str
) -> None:
    """Where a step of the upgrade fails, the first or a later one, not a byte is changed."""
    table = "key" if there == "seals" else "user"
    run(path, f'ALTER TABLE "{table}" ADD COLUMN "{there}" TEXT')
    check_refused_untouched(path, DatabaseRefused, f"duplicate column name: {there}")


def test_an_upgrade_that_is_killed_leaves_the_older_version(
    path: Path, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is killed within the upgrade, the next start does it as a whole."""
    moments: list[tuple[str, dict[str, bytes]]] = []

    def note(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        moments.append((statement, contents(path.parent)))
        return True

    def follow(connection: apsw.Connection) -> None:
        connection.exec_trace = note

    monkeypatch.setattr(apsw, "connection_hooks", [follow])
    assert bring_up_to_date(path, KEYRING)
    monkeypatch.undo()
    statements = [statement.upper() for statement, _ in moments]
    within = moments[statements.index("BEGIN EXCLUSIVE") : statements.index("COMMIT;") + 1]
    assert len(within) > 6 + len(USERS[version])
    for number, (statement, left) in enumerate(within):
        killed = tmp_path / f"killed {number}" / path.name
        killed.parent.mkdir()
        for name, data in left.items():
            killed.with_name(name).write_bytes(data)
        assert user_version(killed) == version, statement
        assert bring_up_to_date(killed, KEYRING)
        check_whole(killed, USERS[version])
        assert not bring_up_to_date(killed, KEYRING)


def test_a_book_in_use_is_not_upgraded(path: Path, version: int) -> None:
    """While another service has it open nothing is done; afterwards it can be."""
    bring_up_to_date(path, KEYRING)
    store = open_store(path)
    store.connection.pragma("user_version", version)
    with pytest.raises(DatabaseRefused, match="in use by another pwserver"):
        bring_up_to_date(path, KEYRING)
    assert store.connection.pragma("user_version") == version
    store.close()


def test_a_wrong_key_upgrades_nothing(path: Path) -> None:
    """A database whose key is not the right one is refused before anything else."""
    for wrong in (OTHER_KEY, MasterKey(2, KEY.secret)):
        keyring = keyring_of(wrong)
        check_refused_untouched(path, KeyRefused, "the key is not the one that", keyring)


@pytest.mark.parametrize("unknown", [0, SCHEMA_VERSION + 1, 99])
def test_an_unknown_version_is_not_upgraded(path: Path, unknown: int) -> None:
    """A version that a later release made, or none, is refused by its number."""
    run(path, f"PRAGMA user_version = {unknown}")
    check_refused_untouched(path, DatabaseRefused, f"schema version {unknown}; .* up to 4")


def test_another_programs_database_is_not_upgraded(path: Path) -> None:
    """Tables and a version that look like ours do not make a database ours."""
    run(path, "PRAGMA application_id = 77")
    check_refused_untouched(path, DatabaseRefused, "is a database of another program")


def check_refused_untouched(
    path: Path, refusal: type[StoreError], reason: str, keyring: Keyring = KEYRING
) -> None:
    """Check that a database is refused, each time it is tried, and nothing is changed."""
    before = contents(path.parent)
    for _ in range(2):
        with pytest.raises(refusal, match=reason):
            bring_up_to_date(path, keyring)
        assert contents(path.parent) == before
