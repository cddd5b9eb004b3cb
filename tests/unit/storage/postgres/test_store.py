"""A PostgreSQL database as the commands and the console use it."""

import contextlib

import psycopg
import pytest

from pwserver.errors import DatabaseRefused, KeyRefused
from tests.support.books import BOTH_KEYS, KEYRING, OTHER_KEY, Saving, keyring_of, users
from tests.support.postgres import Postgres
from tests.support.postgres_host import ServerStore
from workers.book.models import Key, User
from workers.storage.postgres.store import PostgresStore

pytestmark = pytest.mark.postgres


@pytest.fixture
def conninfo(postgres: Postgres) -> str:
    """Return how to connect to an empty database."""
    return postgres.new_database()


def fill(conninfo: str, *ids: int) -> None:
    """Make a book with users of these ids, the first of which has a name."""
    with contextlib.closing(ServerStore(conninfo)) as store:
        store.commit(users(*ids[1:]), [Saving(username="alice", user_id=ids[0], saved_at_ms=7)])


def test_the_console_reads_pages_of_all_users_or_the_newest(conninfo: str) -> None:
    """Oldest first, with the names that they were given; of what cannot be read, none."""
    store = PostgresStore(conninfo)
    assert list(store.pages_of_users(None, 2)) == []
    fill(conninfo, 1, 2, 3, 4, 5)
    pages = list(store.pages_of_users(None, 2))
    assert [[row[0] for row in page] for page in pages] == [[1, 2], [3, 4], [5]]
    assert pages[0] == [(1, "alice", 7), (2, None, 2000)]
    assert [row[0] for page in store.pages_of_users(3, 2) for row in page] == [3, 4, 5]
    assert [row[0] for page in store.pages_of_users(9, 9) for row in page] == [1, 2, 3, 4, 5]
    assert list(store.pages_of_users(0, 2)) == []
    assert list(PostgresStore("host=/nowhere dbname=book").pages_of_users(None, 2)) == []


def test_a_database_is_empty_a_book_or_neither(postgres: Postgres, conninfo: str) -> None:
    """And each is told before a key is made or asked for."""
    store = PostgresStore(conninfo)
    store.check_can_be_made()
    assert not store.holds_a_book()
    with pytest.raises(DatabaseRefused, match="there is no password book"):
        store.require_a_book()
    store.check(KEYRING)
    store.check(KEYRING)
    store.check_is_a_book()
    assert store.holds_a_book()
    store.require_a_book()
    with pytest.raises(KeyRefused, match="not the one"):
        store.check(keyring_of(OTHER_KEY))
    other = postgres.new_database()
    postgres.sql("CREATE TABLE theirs (id int)", other.rpartition("dbname=")[2])
    with pytest.raises(DatabaseRefused, match="another program"):
        PostgresStore(other).check_is_a_book()


def test_a_service_of_any_host_is_noticed(conninfo: str) -> None:
    """While it is connected."""
    store = PostgresStore(conninfo)
    store.check(KEYRING)
    assert not store.is_in_use()
    with contextlib.closing(ServerStore(conninfo)):
        assert store.is_in_use()
    assert not store.is_in_use()


def test_the_users_of_a_removed_application_are_deleted_without_a_service(conninfo: str) -> None:
    """And the number of users follows; a service does it itself."""
    store = PostgresStore(conninfo)
    with contextlib.closing(ServerStore(conninfo)) as server:
        server.commit([*users(*range(1, 1201), book=3), *users(2000)], [])
        server.connection.execute(
            "INSERT INTO application VALUES (3, 'a', 3, 'removed', 0, NULL, NULL, NULL, NULL, "
            "NULL, NULL, 0, 0, 0, '', 0, 0, 0, 1, '')"
        )
        store.delete_removed(KEYRING)
        assert server.connection.execute("SELECT count(*) FROM writer").fetchone() == (1,)
    store.delete_removed(KEYRING)
    with contextlib.closing(ServerStore(conninfo)) as server:
        assert server.users == 1
    with store.examined(KEYRING) as book:
        assert [row.id for row in User.select(User.id)] == [2000]
        assert list(book.damages()) == []


def test_an_administrator_reads_and_changes_rows_by_the_models(conninfo: str) -> None:
    """In pages, and in transactions that raise the generation, which workers look at."""
    fill(conninfo, *range(1, 8))
    store = PostgresStore(conninfo)
    with store.administered(KEYRING) as book:
        query = User.select(User.id, User.version).where((User.id > 0) & (User.version == 1))
        pages = list(book.pages(query.order_by(User.id), 1, at_a_time=3))
        assert [[row[0] for row in page] for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
        update = User.update({User.sealed: b""}).where(User.id == 0)
        assert book.change_rows(update, [(b"new", 2), (b"newer", 3)]) >= 0
        sealed = User.select(User.sealed).where(User.id << [2, 3]).order_by(User.id)
        assert [bytes(row.sealed) for row in sealed] == [b"new", b"newer"]
        with book.changing():
            Key.insert(
                id=2, check_value=BOTH_KEYS.keys[2].check_value, seals=True
            ).on_conflict_ignore().execute()
            Key.update(seals=Key.id == 2).execute()
        assert book.sealing_key() == 2
        assert book.applications() == []
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT generation FROM pwserver").fetchone() == (2,)
    with pytest.raises(KeyRefused, match="needs key 2, which the key file of this host lacks"):
        store.check(KEYRING)


def test_who_examines_changes_nothing(conninfo: str) -> None:
    """Not even by mistake; and a wrong number of users is found."""
    fill(conninfo, 1, 2)
    store = PostgresStore(conninfo)
    with pytest.raises(DatabaseRefused, match="read-only"), store.examined(KEYRING):
        User.delete().execute()
    with store.administered(KEYRING):
        User.delete().where(User.id == 1).execute()
    with store.examined(KEYRING) as book:
        assert list(book.damages()) == ["its writers have counted 2 users, and there are 1"]
