"""A move between SQLite and PostgreSQL: nothing changes on the way, wherever it is interrupted."""

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pwserver.errors import AdministrationRefused, DatabaseRefused
from tests.support.books import make_book, next_version, open_store, users
from tests.support.harness import eventually, meanwhile
from tests.support.moves import USERS, change, is_usable, quietly, rows_of, use, varied_book
from tests.support.postgres import Postgres
from workers.admin import move as moving
from workers.admin.move import Moved, move
from workers.storage.movable import Movable
from workers.storage.operations import DELETE
from workers.storage.postgres import moving as postgres_moving
from workers.storage.postgres import schema
from workers.storage.postgres.moving import PostgresMovable
from workers.storage.sqlite.moving import SqliteMovable

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a small book have several pages, and nobody wait for a service that stays."""
    monkeypatch.setattr(moving, "_ROWS_TOGETHER", 4)
    monkeypatch.setattr(postgres_moving, "_IN_USE_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> SqliteMovable:
    """Return a book in a file that has something of everything."""
    return varied_book(tmp_path / "book.db")


@pytest.fixture
def server_database(postgres: Postgres) -> PostgresMovable:
    """Return an empty database on the server."""
    return PostgresMovable(postgres.new_url())


Pair = tuple[Movable, Movable]


@pytest.fixture(params=["to a server", "to a file"])
def pair(
    request: pytest.FixtureRequest,
    file: SqliteMovable,
    server_database: PostgresMovable,
    tmp_path: Path,
) -> Pair:
    """Return a book, and an empty place for it of the other kind."""
    if request.param == "to a server":
        return file, server_database
    move(file, server_database, quietly)
    return server_database, SqliteMovable(tmp_path / "new.db")


def interrupted_at(call: int) -> Callable[[str, int, int], None]:
    """Return a progress that is interrupted when it is told of something for that time."""
    calls = itertools.count(1)

    def told(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        if next(calls) == call:
            raise KeyboardInterrupt

    return told


def move_with_interruptions(source: Movable, destination: Movable) -> tuple[Moved, int]:
    """Run a move again and again, each time interrupted a step later; return how often."""
    for call in itertools.count(1):
        try:
            return move(source, destination, interrupted_at(call)), call - 1
        except KeyboardInterrupt:
            assert not is_usable(destination) or not is_usable(source)
    raise AssertionError


# --- What is moved. ---


def test_there_and_back_nothing_changes(
    file: SqliteMovable, server_database: PostgresMovable, tmp_path: Path
) -> None:
    """Every row of every table is what it was, also those with odd texts."""
    before = rows_of(file)
    there = move(file, server_database, quietly)
    assert rows_of(server_database) == before
    back_again = SqliteMovable(tmp_path / "new.db")
    assert move(server_database, back_again, quietly) == there
    assert rows_of(back_again) == before
    assert there.rows == {"key": 2, "application": 1, "user": USERS, "request": 1}


def test_a_file_is_whole_afterwards(pair: Pair, tmp_path: Path) -> None:
    """It has the indexes of a new book, and counts its users; its log may be lost."""
    source, destination = pair
    move(source, destination, quietly)
    if not isinstance(destination, SqliteMovable):
        return
    path = Path(destination.place)
    assert not Path(f"{path}-wal").exists()
    made = tmp_path / "made.db"
    make_book(made, [])
    schemas = []
    for each in (path, made):
        connection = sqlite3.connect(each)
        schemas.append(sorted(connection.execute("SELECT name, sql FROM sqlite_schema")))
        connection.close()
    assert schemas[0] == schemas[1]


def test_the_server_counts_and_numbers_on(
    file: SqliteMovable, server_database: PostgresMovable
) -> None:
    """The number of users is theirs, and a new request gets an id of its own."""
    move(file, server_database, quietly)
    with psycopg.connect(server_database.place) as connection:
        assert connection.execute("SELECT sum(users)::int FROM writer").fetchone() == (USERS,)
        new = """INSERT INTO request (book, request_id, fingerprint, user_id, version, saved_at_ms)
            VALUES (0, 'x', 0, 0, 1, 0) RETURNING id"""
        assert connection.execute(new).fetchone() == (2,)


def test_an_empty_book_is_moved(server_database: PostgresMovable, tmp_path: Path) -> None:
    """Also one that has nothing but its keys."""
    make_book(tmp_path / "book.db", [])
    empty = SqliteMovable(tmp_path / "book.db")
    assert move(empty, server_database, quietly).rows["user"] == 0
    again = SqliteMovable(tmp_path / "new.db")
    assert move(server_database, again, quietly).rows["user"] == 0


def test_both_sides_may_be_of_one_kind(file: SqliteMovable, tmp_path: Path) -> None:
    """A move knows of neither kind."""
    before = rows_of(file)
    new = SqliteMovable(tmp_path / "new.db")
    move(file, new, quietly)
    assert rows_of(new) == before


# --- Interruptions. ---


def test_interrupted_at_every_step(pair: Pair) -> None:
    """It goes on, and there is never a moment in which both databases can be used."""
    source, destination = pair
    before = rows_of(source)
    moved, times = move_with_interruptions(source, destination)
    assert times > 10
    assert moved.rows["user"] == USERS
    assert rows_of(destination) == before
    assert is_usable(destination)
    assert not is_usable(source)


def test_what_is_half_made_is_not_used(pair: Pair) -> None:
    """The sentence says what to do; the source is in use meanwhile as before."""
    source, destination = pair
    with pytest.raises(KeyboardInterrupt):
        move(source, destination, interrupted_at(4))
    with pytest.raises(DatabaseRefused, match=r"not whole.*again to go on"):
        use(destination)
    use(source)


def test_what_changed_meanwhile_is_moved_as_it_is_now(
    file: SqliteMovable, server_database: PostgresMovable
) -> None:
    """A service that ran after an interruption has replaced, deleted and added users."""
    with pytest.raises(KeyboardInterrupt):
        move(file, server_database, interrupted_at(6))
    store = open_store(Path(file.place))
    deletion = (DELETE, None, 101)
    store.commit(users(4, 2000), [next_version(store, 5), deletion])
    store.close()
    before = rows_of(file)
    move(file, server_database, quietly)
    assert rows_of(server_database) == before


def test_a_server_that_ends_what_is_idle(
    file: SqliteMovable, server_database: PostgresMovable, tmp_path: Path
) -> None:
    """A source has one long transaction; views of extensions in the database disturb nobody."""
    change(server_database, "CREATE VIEW somebodys AS SELECT 1 AS id")
    move(file, server_database, quietly)
    name = server_database.place.partition("?")[0].rpartition("/")[2]
    change(
        server_database,
        f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1ms'",
    )
    new = SqliteMovable(tmp_path / "new.db")
    move(server_database, new, lambda *_: time.sleep(0.005))
    assert is_usable(new)


@contextlib.contextmanager
def without_its_standby(server: Postgres) -> Iterator[None]:
    """Let a server wait for a standby that is not there, and cancel each wait soon."""
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def cancel(over: threading.Event) -> None:
        with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
            while not over.wait(0.02):
                connection.execute(waiting)

    with (
        psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection,
        meanwhile(cancel),
    ):
        try:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            connection.execute("SELECT pg_reload_conf()")
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")


def test_a_commit_that_no_standby_has(pair: Pair, postgres: Postgres) -> None:
    """It may be lost at the next failover, so the other side does not change yet."""
    source, destination = pair
    before = rows_of(source)
    with contextlib.ExitStack() as stack:

        def told(what: str, done: int, total: int) -> None:
            if (what, done) == ("Completing", 0):
                stack.enter_context(without_its_standby(postgres))
                wait_for_setting(postgres, "nobody")

        with pytest.raises(DatabaseRefused, match="may not have reached the standby"):
            move(source, destination, told)
    wait_for_setting(postgres, "")
    assert not is_usable(destination)
    move(source, destination, quietly)
    assert rows_of(destination) == before


def wait_for_setting(server: Postgres, value: str) -> None:
    """Wait until new connections see which standby the server waits for."""

    def is_so() -> bool:
        with psycopg.connect(server.conninfo("postgres")) as connection:
            return connection.execute("SHOW synchronous_standby_names").fetchone() == (value,)

    eventually(is_so, f"the server waits for {value!r}")


def test_a_difference_is_found_and_put_right(pair: Pair) -> None:
    """What somebody changed in the destination stops the move, and the next run copies it."""
    source, destination = pair
    before = rows_of(source)

    def meddle(what: str, done: int, total: int) -> None:
        if (what, done) == ("Completing", 0):
            change(destination, """UPDATE "user" SET version = 9 WHERE id = 105""")

    with pytest.raises(DatabaseRefused, match=r"differs from .* in its table user: it has 12 rows"):
        move(source, destination, meddle)
    use(source)
    move(source, destination, quietly)
    assert rows_of(destination) == before


def test_a_destination_that_is_gone(pair: Pair) -> None:
    """Nothing is made in its place: the last step of a move that is known to be done is missing."""
    source, destination = pair
    with pytest.raises(KeyboardInterrupt):
        move(source, destination, lambda what, done, _: _stop((what, done) == ("Completing", 2)))
    if isinstance(destination, SqliteMovable):
        Path(destination.place).unlink()
    else:
        change(destination, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with pytest.raises(DatabaseRefused, match="was moved to"):
        move(source, destination, quietly)
    source.unmark()
    move(source, destination, quietly)


def _stop(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


# --- What was moved. ---


def test_a_moved_book_is_not_used(pair: Pair) -> None:
    """Neither by a service nor by a second move; the sentence says where it is."""
    source, destination = pair
    move(source, destination, quietly)
    for attempt in (lambda: use(source), lambda: move(source, destination, quietly)):
        with pytest.raises(DatabaseRefused, match="was moved to") as refused:
            attempt()
        assert destination.place in str(refused.value)


def test_a_service_that_comes_back_finds_nothing(
    file: SqliteMovable, server_database: PostgresMovable, tmp_path: Path
) -> None:
    """One that was cut off while its database was moved has not read the mark."""
    move(file, server_database, quietly)
    move(server_database, SqliteMovable(tmp_path / "new.db"), quietly)
    with psycopg.connect(server_database.place, autocommit=True) as connection:
        for statement in ('SELECT 1 FROM "user"', "UPDATE writer SET epoch = epoch + 1"):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute(statement)


def test_a_mark_is_taken_away(pair: Pair) -> None:
    """The book can be used and moved again; only a book that was moved has a mark to take away."""
    source, destination = pair
    with pytest.raises(AdministrationRefused, match="not marked"):
        source.unmark()
    with pytest.raises(KeyboardInterrupt):
        move(source, destination, interrupted_at(3))
    with pytest.raises(AdministrationRefused, match="not whole"):
        destination.unmark()
    move(source, destination, quietly)
    source.unmark()
    use(source)
    with pytest.raises(DatabaseRefused, match="has a book in it"):
        move(source, destination, quietly)


# --- What is refused. ---


def test_a_source_in_use(file: SqliteMovable, server_database: PostgresMovable) -> None:
    """Nothing is moved while a service has it open."""
    store = open_store(Path(file.place))
    try:
        with pytest.raises(AdministrationRefused, match="a service runs on"):
            move(file, server_database, quietly)
    finally:
        store.close()
    move(file, server_database, quietly)


def test_a_server_in_use(
    file: SqliteMovable, server_database: PostgresMovable, tmp_path: Path
) -> None:
    """The service may be on any host."""
    move(file, server_database, quietly)
    new = SqliteMovable(tmp_path / "new.db")
    with psycopg.connect(server_database.place, autocommit=True) as service:
        service.execute("SELECT pg_advisory_lock_shared(%s)", (schema.LOCK_SERVICE,))
        with pytest.raises(AdministrationRefused, match="stop it first, on every host"):
            move(server_database, new, quietly)
    assert not Path(new.place).exists()


def test_no_service_starts_meanwhile(pair: Pair) -> None:
    """Whoever is moved is locked, and so is what is filled."""
    source, destination = pair
    tried: list[str] = []

    def told(what: str, done: int, total: int) -> None:
        if what == "Verifying" and not tried:
            for each in pair:
                with pytest.raises((AdministrationRefused, DatabaseRefused)) as refused:
                    move(each, SqliteMovable(Path("/nonexistent/never.db")), quietly)
                tried.append(str(refused.value))

    move(source, destination, told)
    assert all("service" in each for each in tried)
    assert len(tried) == 2


def test_a_destination_with_a_book(
    file: SqliteMovable, server_database: PostgresMovable, postgres: Postgres, tmp_path: Path
) -> None:
    """It stays as it is."""
    move(file, server_database, quietly)
    make_book(tmp_path / "other.db", users(1))
    other = SqliteMovable(tmp_path / "other.db")
    before = rows_of(server_database), rows_of(other)
    for source, destination in ((other, server_database), (server_database, other)):
        with pytest.raises(DatabaseRefused, match="has a book in it already"):
            move(source, destination, quietly)
    assert (rows_of(server_database), rows_of(other)) == before
    with pytest.raises(DatabaseRefused, match="was moved to"):
        move(other, file, quietly)
    empty = PostgresMovable(postgres.new_url())
    with pytest.raises(KeyboardInterrupt):
        move(other, empty, interrupted_at(2))
    with pytest.raises(DatabaseRefused, match=r"a move from .*other.db"):
        move(server_database, empty, quietly)


FOREIGN = "CREATE TABLE things (id int)"


def test_databases_of_other_programs(
    file: SqliteMovable, postgres: Postgres, tmp_path: Path
) -> None:
    """They are neither moved nor filled."""
    foreign_file = SqliteMovable(tmp_path / "foreign.db")
    Path(foreign_file.place).touch(0o600)
    foreign_server = PostgresMovable(postgres.new_url())
    for foreign in (foreign_file, foreign_server):
        change(foreign, FOREIGN)
        for source, destination in ((file, foreign), (foreign, SqliteMovable(tmp_path / "n.db"))):
            with pytest.raises(DatabaseRefused, match="another program"):
                move(source, destination, quietly)


def test_other_versions(file: SqliteMovable, postgres: Postgres, tmp_path: Path) -> None:
    """Only what this version has made is moved or filled."""
    old_server = PostgresMovable(postgres.new_url())
    move(file, old_server, quietly)
    file.unmark()
    change(old_server, "UPDATE pwserver SET version = 99")
    old_file = SqliteMovable(tmp_path / "old.db")
    make_book(tmp_path / "old.db", users(1), schema_version=99)
    for old in (old_file, old_server):
        for source, destination in ((file, old), (old, SqliteMovable(tmp_path / "n.db"))):
            with pytest.raises(DatabaseRefused, match="schema version 99"):
                move(source, destination, quietly)


def test_there_is_nothing(server_database: PostgresMovable, tmp_path: Path) -> None:
    """A source must be there."""
    nothing = SqliteMovable(tmp_path / "nothing.db")
    for source, destination in ((nothing, server_database), (server_database, nothing)):
        with pytest.raises(DatabaseRefused, match="there is no password book"):
            move(source, destination, quietly)
    assert not Path(nothing.place).exists()


def test_a_row_that_a_server_cannot_take(
    file: SqliteMovable, server_database: PostgresMovable
) -> None:
    """PostgreSQL has no texts with a NUL, which only somebody who altered the file can have put."""
    name = "UPDATE user SET username = char(97, 0, 98) WHERE id = 7"
    change(file, name)
    with pytest.raises(DatabaseRefused, match="table user, a row from 5 to"):
        move(file, server_database, quietly)
    use(file)


def test_a_text_that_is_not_utf_8(file: SqliteMovable, server_database: PostgresMovable) -> None:
    """Nor can anybody have saved it."""
    change(file, "UPDATE user SET username = CAST(x'ff' AS TEXT) WHERE id = 7")
    with pytest.raises(DatabaseRefused, match="not UTF-8"):
        move(file, server_database, quietly)
    use(file)


def test_a_damaged_source(file: SqliteMovable, server_database: PostgresMovable) -> None:
    """What cannot be read whole is not moved."""
    path = Path(file.place)
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(DatabaseRefused, match=r"damaged|cannot be used"):
        move(file, server_database, quietly)
