"""The contract of a store on PostgreSQL: batches, their outcomes, and lost connections."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pwserver.errors import DatabaseRefused
from tests.support.books import KEYRING, REQUESTS_KEPT_MS, Saving, users
from tests.support.harness import eventually
from tests.support.postgres import Postgres
from tests.support.postgres_host import NOTHING, Asked, Host
from workers.storage.operations import DELETE, DONE, FULL, LABEL, STALE, nonce
from workers.storage.outage import SERVER_AWAY
from workers.storage.postgres.committing import ID_TAKEN, KEY_RETIRED
from workers.storage.postgres.schema import check_server, prepare
from workers.storage.postgres.statements import COMMITTING


@pytest.fixture
def book(postgres: Postgres) -> str:
    """Return a new book."""
    conninfo = postgres.new_database()
    prepare(conninfo, KEYRING.check_values)
    return conninfo


@pytest.fixture
def host(book: str) -> Iterator[Host]:
    """Return a host of it."""
    with contextlib.closing(Host(book)) as opened:
        yield opened


def sql(conninfo: str, statement: str, *parameters: Any) -> list[Any]:
    """Run a statement as somebody else."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def counted(conninfo: str) -> tuple[int, int]:
    """Return the rows, and the number of users that writers have noted."""
    select = 'SELECT (SELECT count(*) FROM "user"), (SELECT sum(users) FROM writer)'
    ((rows, noted),) = sql(conninfo, select)
    return rows, noted


def test_every_batch_is_told_how_many_users_there_were_before_it(host: Host, book: str) -> None:
    """Batches that come together are one transaction."""
    assert host.commit(Asked(users(1, 2))) == (0, [])
    batches = Asked(users(3, 4)), Asked(users(5), [tuple(Saving(username="a", user_id=9))])
    assert host.commit(*batches) == [(2, []), (4, [DONE])]
    assert host.scoreboard.users == 6
    assert counted(book) == (6, 6)


def test_the_state_of_a_row_decides(host: Host) -> None:
    """A new name, a new version, labels and a deletion; each stale if the row had changed."""
    first = Saving(username="alice", user_id=1, sealed=b"1" * 60)
    second = first._replace(replaced=nonce(first.sealed), version=2, sealed=b"2" * 60, older=b"o")
    assert host.do(first, first._replace(user_id=2)) == [DONE, STALE]
    assert host.do(second, second) == [DONE, STALE]
    label = (LABEL, 1, 1, nonce(second.sealed), b"3" * 60, '["x"]', b"p")
    assert host.do(label, label) == [DONE, STALE]
    user = host.ask(host.reader.find(0, "alice"))
    assert (user.version, user.sealed, user.labels, user.older) == (2, b"3" * 60, '["x"]', b"p")
    assert host.do((DELETE, None, 1), (DELETE, None, 1)) == [DONE, STALE]
    assert host.ask(host.reader.find(0, "alice")) is None
    assert host.scoreboard.users == 0


def test_a_request_is_done_once_whichever_host_is_asked(host: Host, book: str) -> None:
    """In one batch, in another, and on another host; any text is a request id."""
    saving = Saving(user_id=1, request_id="r\0\u00e9")
    again = saving._replace(user_id=2)
    assert host.do(saving, again) == [DONE, (1, 1, 7)]
    assert host.do(again) == [(1, 1, 7)]
    with contextlib.closing(Host(book)) as other:
        assert other.do(again._replace(user_id=3)) == [(1, 1, 7)]
    late = again._replace(saved_at_ms=saving.saved_at_ms + REQUESTS_KEPT_MS + 1)
    assert host.do(late) == [DONE], "it is forgotten by then"
    assert host.ask(host.reader.earlier(0, "r\0\u00e9")) == (2, 1, 7)
    assert counted(book) == (2, 2)


def test_hosts_at_the_same_time_lose_and_double_nothing(host: Host, book: str) -> None:
    """Of two hosts that save the same name and the same request, one is first."""
    with contextlib.closing(Host(book)) as other:
        for number in range(20):
            name = Saving(username=f"u{number}", user_id=100 + 2 * number)
            request = Saving(user_id=1000 + 2 * number, request_id=f"r{number}")
            asked = []
            for more, each in enumerate((host, other)):
                mine = [
                    tuple(saving._replace(user_id=saving.user_id + more))
                    for saving in (name, request)
                ]
                asked.append(Asked(operations=mine))
                each.committer.commit([asked[-1]])
            for each, work in zip((host, other), asked, strict=True):
                each.until(lambda work=work: work.outcome != NOTHING)
            results = [work.outcome[1] for work in asked]
            assert sorted(result[0] for result in results) == [STALE, DONE]
            assert sum(result[1] is DONE for result in results) == 1
    assert counted(book) == (40, 40)


def test_a_book_takes_no_more_users_than_it_may(host: Host) -> None:
    """A name that is there is stale, so that the worker plans a version of it."""
    one = Saving(book=7, username="a", user_id=1, users_max=1)
    assert host.do(one, one._replace(username="b", user_id=2)) == [DONE, FULL]
    assert host.do(one._replace(user_id=3)) == [STALE]


@pytest.mark.parametrize("its", [0, 7], ids=["the common book", "of an application"])
def test_both_kinds_of_users_are_counted_for_that(host: Host, its: int) -> None:
    """Those with a name, and those without; not those of other books."""
    host.do(Saving(book=5, user_id=1), Saving(book=5, username="a", user_id=2))
    one = Saving(book=its, user_id=3, users_max=2)
    two, three = (one._replace(username=name, user_id=ord(name)) for name in "ab")
    assert host.do(one) == host.do(two) == [DONE]
    assert host.do(three) == host.do(one._replace(user_id=4)) == [FULL]
    assert host.do(three._replace(users_max=3)) == [DONE]
    assert host.do(one._replace(user_id=4, users_max=3)) == [FULL]


def test_what_cannot_be_done_fails_alone(host: Host, book: str) -> None:
    """A taken id, and a key that was retired; the other batches of the commit are done."""
    host.commit(Asked(users(1)))
    retired = [(5, 0, 2, b"sealed", 0)]
    outcomes = host.commit(Asked(users(1)), Asked(retired), Asked(users(7)))
    assert outcomes == [ID_TAKEN, KEY_RETIRED, (1, [])]
    assert counted(book) == (2, 2)


def test_the_users_of_a_removed_application_are_deleted(host: Host, book: str) -> None:
    """Some once a tick, and nothing more is saved into its book."""
    host.commit(Asked(users(1, 2, book=3) + users(4)))
    sql(
        book,
        "INSERT INTO application VALUES (3, 'a', 3, 'removed', 0, NULL, NULL, NULL, NULL, NULL, "
        "NULL, 0, 0, 0, '', 0, 0, 0, 1, '')",
    )
    host.commit(Asked(users(5, book=3), [tuple(Saving(book=3, username="a", user_id=6))]))
    host.until(lambda: host.scoreboard.users == 1)
    assert counted(book) == (1, 1)


def test_a_page_has_both_kinds_of_names_in_order(host: Host) -> None:
    """And goes on where the one before it ended."""
    names = ["zoe", "alice", "bob", "\u00e9va"]
    host.do(*[Saving(username=name, user_id=n, labels='["x"]') for n, name in enumerate(names, 10)])
    host.commit(Asked(users(1, 2)))
    found, after = [], ""
    while after is not None:
        page, after = host.ask(host.reader.page(0, after, "", None, 2))
        found += [entry.name for entry in page]
    assert found == sorted(found)
    assert len(found) == 6
    labelled, after = host.ask(host.reader.page(0, "", "", "x", 10))
    assert [entry.name for entry in labelled] == sorted(names)
    assert host.ask(host.reader.find_or_decoy(0, "bob"))[1]
    user, is_it = host.ask(host.reader.find_or_decoy(0, "bo"))
    assert user is not None
    assert not is_it


# --- Faults. ---


@pytest.mark.parametrize("how", ["terminate", "cancel"])
def test_a_lost_connection_loses_and_doubles_nothing(host: Host, book: str, how: str) -> None:
    """Backends are killed, or their statements cancelled, while batches are committed."""
    asked = []
    for number in range(60):
        named = [tuple(Saving(username=f"u{number}", user_id=1000 + number))] * (number % 3 == 0)
        work = Asked(users(number + 1), named)
        asked.append(work)
        is_far(host)
        host.committer.commit([work])
        host.turn()
        if number % 5 == 0:
            sql(
                book,
                f"SELECT pg_{how}_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
    host.until(lambda: all(work.outcome != NOTHING for work in asked))
    assert all(work.outcome[1] == [DONE] * len(work.operations) for work in asked)
    assert counted(book) == (80, 80)
    assert host.scoreboard.users == 80


def is_far(host: Host) -> None:
    """Have the next batch sent although the one before is not answered, as to a server far away."""
    host.committer._server_us, host.committer.link.shortest_s = 0, 1.0


def send(host: Host, *batches: Asked) -> None:
    """Send batches one behind the other."""
    for batch in batches:
        is_far(host)
        assert host.committer.takes_work
        host.committer.commit([batch])


def outcomes(host: Host, *batches: Asked) -> list[Any]:
    """Wait for the outcomes of batches."""
    host.until(lambda: all(batch.outcome != NOTHING for batch in batches))
    return [batch.outcome for batch in batches]


def test_batches_are_on_their_way_one_behind_the_other(host: Host, book: str) -> None:
    """But nothing behind one that has results, because the row keeps those of the last alone."""
    batches = [Asked(users(number)) for number in (1, 2)]
    batches.append(Asked(users(3), [tuple(Saving(username="a", user_id=4))]))
    send(host, *batches)
    is_far(host)
    assert not host.committer.takes_work
    assert outcomes(host, *batches) == [(0, []), (1, []), (2, [DONE])]
    assert counted(book) == (4, 4)


def test_of_batches_on_their_way_only_one_may_fail(host: Host, book: str) -> None:
    """What was sent behind it is done all the same, once."""
    host.commit(Asked(users(2)))
    batches = [Asked(users(number)) for number in (1, 2, 3, 4)]
    send(host, *batches)
    assert outcomes(host, *batches) == [(1, []), ID_TAKEN, (2, []), (3, [])]
    assert counted(book) == (4, 4)


def test_a_lost_connection_settles_each_batch_on_its_way(host: Host, book: str) -> None:
    """The number of the last one says which were committed; the others are sent again."""
    host.until(lambda: not host.scoreboard.commit_since_us)
    batches = [Asked(users(1)), Asked(users(2)), Asked(users(3, 4))]
    with psycopg.connect(book) as connection:
        connection.execute(
            'INSERT INTO "user" (id, key_id, sealed, saved_at_ms) VALUES (2, 1, %s, 0)', (b"s",)
        )
        send(host, *batches)  # the second waits for whoever has its id
        eventually(lambda: sql(book, 'SELECT id FROM "user"') == [(1,)], "the first is committed")
        host.committer.link.lose("the test closes it")
        assert [batch.outcome for batch in batches] == [NOTHING] * 3
        connection.rollback()
    assert outcomes(host, *batches) == [(0, []), (1, []), (2, [])]
    assert counted(book) == (4, 4)


def test_a_batch_is_done_only_if_its_number_is_the_next(host: Host, book: str) -> None:
    """Else one could be done although the one before it was not."""
    host.until(lambda: not host.scoreboard.commit_since_us)
    host.committer._done += 1
    assert host.commit(Asked(users(1))) == (0, [])
    assert "another process" in host.committer.link.why
    assert counted(book) == (1, 1)


def test_who_waited_too_long_for_a_batch_on_its_way_is_told_so(host: Host, book: str) -> None:
    """That nobody knows; what was sent behind it is done."""
    host.until(lambda: not host.scoreboard.commit_since_us)
    late = Asked(users(1), since=0.0)
    batches = [late, Asked(users(2))]
    send(host, *batches)
    host.committer.tick(idle=True)
    assert late.outcome is None
    assert isinstance(outcomes(host, *batches)[1], tuple)
    rows, noted = counted(book)
    assert rows == noted
    assert rows in (1, 2)


def test_a_server_that_is_killed_and_comes_back(postgres: Postgres, host: Host, book: str) -> None:
    """What was acknowledged is there; what came meanwhile is done when it is back."""
    asked = [Asked(users(number)) for number in range(1, 51)]
    for work in asked[:40]:
        host.committer.commit([work])
        host.turn()
    postgres.stop("immediate")
    for work in asked[40:]:
        host.committer.commit([work])
        host.turn()
    postgres.start()
    host.until(lambda: all(work.outcome != NOTHING for work in asked))
    assert all(isinstance(work.outcome, tuple) for work in asked)
    assert counted(book) == (50, 50)


def test_a_server_that_stays_away_is_a_certain_no(postgres: Postgres, book: str) -> None:
    """For what was never sent, after the patience of the host, and not a hang."""
    with contextlib.closing(Host(book, patience_s=1.0)) as host:
        postgres.stop("immediate")
        try:
            host.until(lambda: not host.committer.link.connected)
            assert host.commit(Asked(users(1))) == SERVER_AWAY
        finally:
            postgres.start()
        host.until(lambda: host.committer.link.connected)
        assert isinstance(host.commit(Asked(users(2))), tuple)


def test_another_process_with_the_row_is_shut_out(host: Host, book: str) -> None:
    """Who has an older epoch commits nothing before it has taken the row again."""
    sql(book, "UPDATE writer SET epoch = epoch + 1")
    assert host.commit(Asked(users(1))) == (0, [])
    assert counted(book) == (1, 1)


def test_the_writers_row_is_never_searched_for(host: Host, book: str) -> None:
    """Its old versions stay while somebody has an old snapshot, and would all be looked at."""
    with psycopg.connect(book, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        connection.execute("SELECT set_config('pwserver.row', '(0,1)', false)")
        for name in ("batch", "rows", "save", "replace", "label", "delete", "empty", "outcome"):
            connection.execute(f"PREPARE {name} AS {COMMITTING[name]}")
            (prepared,) = connection.execute(
                "SELECT array_length(parameter_types, 1) FROM pg_prepared_statements "
                "WHERE name = %s",
                (name,),
            ).fetchall()
            values = ", ".join(["NULL"] * prepared[0])
            plan = connection.execute(f"EXPLAIN EXECUTE {name}({values})").fetchall()
            on_writer = [line for (line,) in plan if "Scan" in line and "on writer" in line]
            assert on_writer, name
            assert all("Tid Scan on writer" in line for line in on_writer), (name, on_writer)


def test_a_table_that_is_written_anew_does_not_lose_the_row(host: Host, book: str) -> None:
    """The row is somewhere else then, and found again by its number."""
    assert host.commit(Asked(users(1))) == (0, [])
    sql(book, "VACUUM FULL writer")
    sql(book, "UPDATE writer SET at = now()")
    assert host.commit(Asked(users(2))) == (1, [])
    assert host.commit(Asked(users(3))) == (2, [])
    assert counted(book) == (3, 3)


def test_no_statement_is_compiled_or_planned_anew(book: str) -> None:
    """A server with LLVM would compile each, for a second, because their estimates are large."""
    with psycopg.connect(book) as connection:
        connection.execute(COMMITTING["settings"])
        assert connection.execute("SHOW enable_seqscan").fetchone() == ("off",)
        assert connection.execute("SHOW jit").fetchone() == ("off",)
        assert connection.execute("SHOW plan_cache_mode").fetchone() == ("force_generic_plan",)


# --- What is refused at the start. ---


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("fsync", "off", "fsync=off"),
        ("synchronous_commit", "local", "synchronous_commit=local"),
        ("synchronous_commit", "remote_write", "synchronous_commit=remote_write"),
        ("synchronous_commit", "off", "synchronous_commit=off"),
        ("server_encoding", "LATIN1", "must be UTF8"),
        ("transaction_read_only", "on", "read-only"),
        ("in_hot_standby", "on", "read-only"),
    ],
)
def test_a_server_that_may_lose_a_commit_is_refused(setting: str, value: str, words: str) -> None:
    """With the reason."""
    good = {
        "fsync": "on",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
        "transaction_read_only": "off",
        "in_hot_standby": "off",
        "server_version_num": "180006",
    }
    check_server(good)
    with pytest.raises(DatabaseRefused, match=words):
        check_server(good | {setting: value})


def test_a_database_that_is_no_book_is_refused(postgres: Postgres, book: str) -> None:
    """Of another program, schema or encoding, read-only, or one that may lose a commit."""
    keys = KEYRING.check_values
    other = postgres.new_database()
    sql(other, "CREATE TABLE theirs (id int)")
    with pytest.raises(DatabaseRefused, match="another program"):
        prepare(other, keys)
    with pytest.raises(DatabaseRefused, match="encoding SQL_ASCII"):
        prepare(postgres.new_database("SQL_ASCII"), keys)
    with pytest.raises(DatabaseRefused, match="read-only"):
        prepare(f"{book} options='-c default_transaction_read_only=on'", keys)
    with pytest.raises(DatabaseRefused, match="synchronous_commit=off"):
        prepare(f"{book} options='-c synchronous_commit=off'", keys)
    sql(book, "UPDATE pwserver SET version = version + 1")
    with pytest.raises(DatabaseRefused, match="schema version"):
        prepare(book, keys)
