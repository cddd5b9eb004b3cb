"""Reading the book: a reader and a writer on one file, with no process around them.

What is sealed is any bytes here: the reader cannot open them.
"""

from collections.abc import Iterator
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.errors import Unavailable
from pwserver.limits import PAGE_BYTES_MAX
from tests.support.books import (
    NOW_MS,
    Saving,
    add_shop,
    new_scoreboard,
    next_version,
    open_store,
    put_application,
    save_three_versions,
    take_key,
    users,
)
from tests.support.engines import BOTH_ENGINES
from workers.book import history
from workers.book.models import ApplicationRow, Row, UserRow
from workers.book.names import generated_name
from workers.storage.operations import DELETE, DONE, LABEL, Entry, Operation
from workers.storage.sqlite import reading
from workers.storage.sqlite.database import Store
from workers.storage.sqlite.reading import BookReader, ReadingConnection

GENERATED = (1, 31, 32, 2**40, 2**62 + 5)


def names(reader: BookReader, book: int = 0, **others: Any) -> list[str]:
    """Return the names on the first page of a listing."""
    wanted = {"after": "", "prefix": "", "label": None, "limit": 1000, **others}
    return [entry.name for entry in reader.page(book, **wanted)[0]]


def pages(reader: BookReader, book: int = 0, **others: Any) -> list[list[Entry]]:
    """Return all pages of a listing, each asked for with the `after` of the one before."""
    wanted = {"prefix": "", "label": None, "limit": 1000, **others}
    after: str | None = ""
    listed = []
    while after is not None:
        before = after
        entries, after = reader.page(book, after, **wanted)
        listed.append(entries)
        assert after is None or after > before, "the listing does not move on"
    return listed


# --- One user. ---


@BOTH_ENGINES
def test_a_user_is_found_by_its_name(store: Store, reader: BookReader) -> None:
    """All of a user's row is found by the name it was given."""
    store.commit([], [Saving(username="alice", user_id=5, sealed=b"one", labels='["a"]')])
    row = UserRow(5, 1, 1, b"one", NOW_MS, 0, None, "alice", '["a"]')
    assert reader.find(0, "alice") == row
    later = next_version(store, 5, sealed=b"two", saved_at_ms=NOW_MS + 1, older=b"older")
    store.commit([], [later])
    found = reader.find(0, "alice")
    assert found == UserRow(5, 2, 1, b"two", NOW_MS + 1, 0, b"older", "alice", '["a"]')
    assert reader.find_by_id(5) == found
    assert [reader.find(0, name) for name in ("Alice", "alic", "alice ", "")] == [None] * 4


@BOTH_ENGINES
@pytest.mark.parametrize("user_id", GENERATED)
def test_a_user_without_a_name_is_found_by_a_generated_one(
    store: Store, reader: BookReader, user_id: int
) -> None:
    """A user who was saved without a name is found by the name that the service shows."""
    store.commit(users(user_id), [])
    found = reader.find(0, generated_name(user_id))
    assert found is not None
    assert found.id == user_id
    assert found == reader.find_by_id(user_id)
    assert reader.find(0, generated_name(user_id + 1)) is None
    assert reader.find_by_id(user_id + 1) is None


@BOTH_ENGINES
def test_a_named_user_is_not_found_by_a_generated_name(store: Store, reader: BookReader) -> None:
    """A user has one name: one that was given a name has no other."""
    store.commit([], [Saving(username="alice", user_id=5)])
    assert reader.find(0, generated_name(5)) is None
    assert reader.find(0, "alice") == reader.find_by_id(5) is not None


@BOTH_ENGINES
def test_books_are_apart(store: Store, reader: BookReader) -> None:
    """The same name in two books is two users, and a generated name is found in its own only."""
    savings = [Saving(username="alice", user_id=5, book=book) for book in (0, 1)]
    store.commit(users(7, book=1), [savings[0], savings[1]._replace(user_id=6)])
    found = [reader.find(book, name) for book in (0, 1, 2) for name in ("alice", generated_name(7))]
    assert [user and user.id for user in found] == [5, None, 6, 7, None, None]
    assert [names(reader, book) for book in (0, 1, 2)] == [
        ["alice"],
        ["alice", generated_name(7)],
        [],
    ]


@BOTH_ENGINES
def test_older_versions_are_found(store: Store, reader: BookReader) -> None:
    """All that is kept of a user's password comes with the user."""
    save_three_versions(store)
    found = reader.find(0, "alice")
    assert found is not None
    assert history.unpack(found.older) == [(1, 1, NOW_MS, b"v1"), (2, 1, NOW_MS + 1000, b"v2")]


def test_what_a_request_made_is_found(store: Store, reader: BookReader) -> None:
    """A request that is remembered is found in its book, with the version that it made."""
    saving = Saving(username="alice", user_id=5, request_id="r", book=1)
    again = saving._replace(replaced=saving.sealed, version=2, request_id="s")
    store.commit([], [saving, again])
    assert [reader.earlier(1, id) for id in ("r", "s", "t")] == [
        (5, 1, saving.fingerprint),
        (5, 2, saving.fingerprint),
        None,
    ]
    assert reader.earlier(0, "r") is reader.earlier(2, "r") is None


# --- Who may use the book, and with which key. ---


def test_applications_are_read_as_they_stand(store: Store, reader: BookReader) -> None:
    """All of them, in the order of their numbers, from the moment they are committed."""
    assert reader.applications() == []
    add_shop(store)
    shop = ApplicationRow(7, "shop", 7, "get save", 1000, b"\x01", seal=b"\x05")
    assert reader.applications() == [shop]
    blobs = (b"\x02", b"\x05", b"\x06", b"\x03", b"\x04")
    other = ApplicationRow(3, "a", 0, "", 0, None, *blobs, 9, 10, 11, "unix", 12, 13, 14, 15, b"")
    put_application(store, other)
    assert reader.applications() == [other, shop]


def test_the_key_to_seal_with_is_read(store: Store, reader: BookReader) -> None:
    """It is the one that the database says; a book that says none is not sealed for."""
    assert reader.sealing_key() == 1
    take_key(store, 2)
    assert reader.sealing_key() == 1
    store.connection.execute("UPDATE key SET seals = id = 2")
    assert reader.sealing_key() == 2
    store.connection.execute("UPDATE key SET seals = 0")
    with pytest.raises(Unavailable, match="does not say which key"):
        reader.sealing_key()


# --- Pages. ---

CHOSEN = ["!", "Zoe", "alice", "alice smith", "user", "user-", "user-0", "user-0000000000000z",
          "user-8000000000000", "user-bob", "users", "zoe", "\u00e9t\u00e9", "\u03a9", "\u540d",
          "\ufb00", "\U0001f600", "\U0001f600a"]  # fmt: skip
NAMES = sorted([*CHOSEN, *map(generated_name, GENERATED)])  # by code points, as Python has it
LABELS = {name: f"l{number % 3}" for number, name in enumerate(CHOSEN)}


def save_all_names(store: Store) -> None:
    """Save users of all these names in an order that is not theirs, and some of another book."""
    operations = [
        Saving(username=name, user_id=1000 + number, labels=f'["a","{LABELS[name]}"]')
        for number, name in enumerate(reversed(CHOSEN))
    ]
    others = [Saving(username=name, user_id=2000 + n, book=1) for n, name in enumerate(CHOSEN)]
    rows: list[Row] = [*users(*GENERATED), *users(2, 33, 2**62, book=1)]
    store.commit(rows, [*operations, *others])


@pytest.fixture(scope="module")
def all_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BookReader]:
    """Return a reader of a book with users of all these names, which nobody writes to any more."""
    path = tmp_path_factory.mktemp("names") / "user_data.db"
    store = open_store(path)
    save_all_names(store)
    yield BookReader(new_scoreboard(), ReadingConnection(path).connect)
    store.close()


PIECES = st.sampled_from(NAMES).flatmap(
    lambda name: st.integers(0, len(name)).map(lambda length: name[:length])
)


@settings(deadline=None, max_examples=200)
@given(
    st.just("") | PIECES | st.text(max_size=5),
    st.just("") | PIECES | st.sampled_from(["user-0", "user-00000", "z", "\u00e9"]),
    st.sampled_from([None, None, None, "a", "l1", "no such"]),
    st.integers(1, 30),
)
def test_a_page_has_what_was_asked_for(
    all_names: BookReader, after: str, prefix: str, label: str | None, limit: int
) -> None:
    """Users come by the code points of their names, generated ones among them, none left out."""
    wanted = [
        name
        for name in NAMES
        if name > after
        and name.startswith(prefix)
        and (label is None or (name in LABELS and label in ("a", LABELS[name])))
    ]
    entries, next_after = all_names.page(0, after, prefix, label, limit)
    assert [entry.name for entry in entries] == wanted[:limit]
    if next_after is not None:
        rest = all_names.page(0, next_after, prefix, label, 1000)
        assert [entry.name for entry in rest[0]] == wanted[limit:]
        assert rest[1] is None
    else:
        assert len(wanted) <= limit


@BOTH_ENGINES
def test_an_entry_tells_what_is_newest(store: Store, reader: BookReader) -> None:
    """A user is listed with labels, version and time, and never with what is sealed."""
    save_three_versions(store)
    labels = (LABEL, 1, 6, b"2 of 6", b"sealed again", '["x","\u00e9"]', None)
    assert store.commit(users(9), [labels]) == [DONE]
    assert reader.page(0, "", "", None, 10) == (
        [
            Entry("alice", 3, NOW_MS + 2000, []),
            Entry("u6", 2, NOW_MS, ["x", "\u00e9"]),
            Entry(generated_name(9), 1, 9000, []),
        ],
        None,
    )


@BOTH_ENGINES
def test_the_last_page_says_so(store: Store, reader: BookReader) -> None:
    """A page that holds the last user names no next one, also where it is just full."""
    assert reader.page(0, "", "", None, 1) == ([], None)
    store.commit(users(1, 2), [])
    assert [len(page) for page in pages(reader, limit=1)] == [1, 1]
    assert [len(page) for page in pages(reader, limit=2)] == [2]


@pytest.mark.parametrize("rows_max", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [1, 2, 1000])
@pytest.mark.parametrize("label", [None, "l1", "no such"])
def test_short_pages_visit_every_user_once(
    all_names: BookReader,
    monkeypatch: pytest.MonkeyPatch,
    rows_max: int,
    limit: int,
    label: str | None,
) -> None:
    """However few rows a page may look at, the pages together have each user once, in order."""
    monkeypatch.setattr(reading, "PAGE_ROWS_MAX", rows_max)
    listed = pages(all_names, label=label, limit=limit)
    assert max(map(len, listed)) <= min(rows_max, limit)
    wanted = [name for name in NAMES if label is None or LABELS.get(name) == label]
    assert [entry.name for page in listed for entry in page] == wanted
    assert len(listed) >= len(NAMES) / rows_max


@BOTH_ENGINES
def test_a_page_ends_among_users_of_another_book(
    store: Store, reader: BookReader, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are passed over count as well: no page takes long, however few users it has."""
    monkeypatch.setattr(f"workers.storage.{engine}.reading.PAGE_ROWS_MAX", 10)
    named = [Saving(username=f"n{number}", user_id=200 + number) for number in range(35)]
    store.commit([*users(*range(1, 100), book=1), *users(300)], [*named])
    listed = pages(reader, prefix="user-")
    assert [len(page) for page in listed] == [0] * 13 + [1]
    assert listed[-1][0].name == generated_name(300)


@BOTH_ENGINES
def test_pages_of_an_application_are_not_cut_short_by_others(
    store: Store, reader: BookReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many users others have, an application's page has what was asked for."""
    monkeypatch.setattr(reading, "PAGE_ROWS_MAX", 10)
    store.commit([*users(*range(1, 100)), *users(*range(200, 300), book=2)], [])
    named = [Saving(username=f"n{number}", user_id=400 + number, book=2) for number in range(35)]
    store.commit(users(150, 160, 170, book=1), [*named])
    entries, after = reader.page(1, "", "", None, 5)
    assert [entry.name for entry in entries] == [*map(generated_name, (150, 160, 170))]
    assert after is None


def plan(store: Store, statement: str) -> str:
    """Return how SQLite finds what a statement asks for."""
    parameters = (1,) * statement.count("?")
    rows = store.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return " / ".join(row[-1] for row in rows)


def test_listings_find_their_users_without_searching(store: Store, reader: BookReader) -> None:
    """An application's generated names have an index; those of the common book need none."""
    store.commit([*users(*range(100)), *users(*range(200, 300), book=1)], [])
    statements = reader._own_ids, reader._ids, reader._chosen_names
    assert [plan(store, statement) for statement in statements] == [
        "SEARCH t1 USING INDEX user_generated (book=? AND rowid>?)",
        "SEARCH t1 USING INTEGER PRIMARY KEY (rowid>?)",
        "SEARCH t1 USING INDEX user_name (book=? AND username>?)",
    ]


def test_the_index_of_generated_names_costs_the_common_book_nothing(store: Store) -> None:
    """Plain saves there, and names anywhere, are not in it."""
    store.commit([*users(1, 2, 3), *users(4, book=1)], [Saving(username="n", user_id=5, book=1)])
    count = (
        "SELECT count(*) FROM user INDEXED BY user_generated WHERE username IS NULL AND book != 0"
    )
    assert store.connection.execute(count).fetchall() == [(1,)]
    no_help = "SELECT count(*) FROM user INDEXED BY user_generated WHERE username IS NULL"
    with pytest.raises(apsw.SQLError, match="no query solution"):
        store.connection.execute(no_help)


@BOTH_ENGINES
def test_a_page_does_not_grow_too_long(store: Store, reader: BookReader) -> None:
    """Users with long names and many labels make shorter pages, and none is left out."""
    labels = "[" + ",".join(['"%s"' % ("x" * 64)] * 16) + "]"
    savings = [
        Saving(username=f"{'n' * 100}{number:04}", user_id=1 + number, labels=labels)
        for number in range(1000)
    ]
    store.commit([], [*savings])
    listed = pages(reader)
    sizes = [sum(len(e.name) + sum(map(len, e.labels)) for e in page) for page in listed]
    assert max(sizes) <= PAGE_BYTES_MAX
    assert min(sizes[:-1]) > PAGE_BYTES_MAX / 2
    assert [entry.name for page in listed for entry in page] == [s.username for s in savings]


def test_a_page_is_of_one_moment(
    store: Store, reader: BookReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is deleted while a page is made is on it, and not on the next one."""
    operations = [Saving(username=name, user_id=n, labels="[]") for n, name in enumerate("abc")]
    store.commit([], [*operations])

    def entry_while_all_are_deleted(name: str, *rest: Any) -> Entry:
        gone: list[Operation] = [(DELETE, None, user_id) for user_id in range(3)]
        store.commit([], gone)
        return Entry(name, *rest)

    monkeypatch.setattr(reading, "_entry", entry_while_all_are_deleted)
    assert names(reader) == ["a", "b", "c"]
    assert names(reader) == []
