"""Reading the book: a reader and a writer on one file, with no process around them.

What is sealed is any bytes here: the reader cannot open them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.config import PAGE_BYTES_MAX
from pwserver.errors import Unavailable
from pwserver.handoff import Scoreboard
from tests.books import (
    NOW_MS,
    Saving,
    contents,
    new_scoreboard,
    next_version,
    open_store,
    users,
)
from workers import history, reading
from workers.database import Store, database_to_read, open_to_read
from workers.models import Row
from workers.names import generated_name
from workers.reading import BookReader, Entry, Found
from workers.writing import DELETE, LABEL, Operation

GENERATED = (1, 31, 32, 2**40, 2**62 + 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "book" / "user_data.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return a new database, open, in a folder of its own."""
    path.parent.mkdir()
    opened = open_store(path)
    yield opened
    opened.close()


@pytest.fixture
def board() -> Scoreboard:
    """Return the scoreboard that tells which database is the writer's."""
    return new_scoreboard()


@pytest.fixture
def reader(path: Path, board: Scoreboard) -> BookReader:
    """Return a reader of the database, whether it is there or not."""
    return BookReader(path, board)


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


def test_a_user_is_found_by_its_name(store: Store, reader: BookReader) -> None:
    """All of a user's newest version is found by the name it was given."""
    store.commit([], [Saving(username="alice", user_id=5, sealed=b"one", labels='["a"]')])
    assert reader.find(0, "alice") == Found(5, 1, 1, b"one", NOW_MS, 0, None)
    later = Saving(username="alice", user_id=5, replaced=1, sealed=b"two", saved_at_ms=NOW_MS + 1)
    store.commit([], [later])
    found = reader.find(0, "alice")
    assert found == Found(5, 2, 1, b"two", NOW_MS + 1, 0, None)
    assert reader.find_by_id(5) == found
    assert [reader.find(0, name) for name in ("Alice", "alic", "alice ", "")] == [None] * 4


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


def test_a_named_user_is_not_found_by_a_generated_name(store: Store, reader: BookReader) -> None:
    """A user has one name: one that was given a name has no other."""
    store.commit([], [Saving(username="alice", user_id=5)])
    assert reader.find(0, generated_name(5)) is None
    assert reader.find(0, "alice") == reader.find_by_id(5) is not None


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


def save_three_versions(store: Store) -> None:
    """Save three versions of a password, a second apart, and an older one of somebody else."""
    store.commit([], [Saving(username="alice", user_id=5, sealed=b"v1")])
    for number in (2, 3):
        at_ms = NOW_MS + (number - 1) * 1000
        saving = next_version(store, 5, saved_at_ms=at_ms, sealed=b"v%d" % number)
        store.commit([], [saving])
    others = [Saving(username="bob", user_id=6, replaced=replaced) for replaced in (0, 1)]
    store.commit([], [*others])


def test_older_versions_are_found(store: Store, reader: BookReader) -> None:
    """All that is kept of a user's password comes with the user."""
    save_three_versions(store)
    found = reader.find(0, "alice")
    assert found is not None
    assert history.unpack(found.older) == [(1, 1, NOW_MS, b"v1"), (2, 1, NOW_MS + 1000, b"v2")]


def test_what_a_request_made_is_found(store: Store, reader: BookReader) -> None:
    """A request that is remembered is found in its book, with the version that it made."""
    saving = Saving(username="alice", user_id=5, request_id="r", book=1)
    store.commit([], [saving, saving._replace(replaced=1, request_id="s")])
    assert [reader.earlier(1, id) for id in ("r", "s", "t")] == [
        (5, 1, saving.fingerprint),
        (5, 2, saving.fingerprint),
        None,
    ]
    assert reader.earlier(0, "r") is reader.earlier(2, "r") is None


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
    yield BookReader(path, new_scoreboard())
    store.close()


PIECES = st.sampled_from(NAMES).flatmap(
    lambda name: st.integers(0, len(name)).map(lambda length: name[:length])
)


@settings(deadline=None, max_examples=400)
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


def test_an_entry_tells_what_is_newest(store: Store, reader: BookReader) -> None:
    """A user is listed with labels, version and time, and never with what is sealed."""
    save_three_versions(store)
    store.commit(users(9), [(LABEL, 6, '["x","\u00e9"]')])
    assert reader.page(0, "", "", None, 10) == (
        [
            Entry("alice", 3, NOW_MS + 2000, []),
            Entry("bob", 2, NOW_MS, ["x", "\u00e9"]),
            Entry(generated_name(9), 1, 9000, []),
        ],
        None,
    )


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


def test_a_page_ends_among_users_of_another_book(
    store: Store, reader: BookReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are passed over count as well: no page takes long, however few users it has."""
    monkeypatch.setattr(reading, "PAGE_ROWS_MAX", 10)
    named = [Saving(username=f"n{number}", user_id=200 + number) for number in range(35)]
    store.commit([*users(*range(1, 100), book=1), *users(300)], [*named])
    listed = pages(reader, prefix="user-")
    assert [len(page) for page in listed] == [0] * 13 + [1]
    assert listed[-1][0].name == generated_name(300)


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
        gone: list[Operation] = [(DELETE, user_id) for user_id in range(3)]
        store.commit([], gone)
        return Entry(name, *rest)

    monkeypatch.setattr(reading, "_entry", entry_while_all_are_deleted)
    assert names(reader) == ["a", "b", "c"]
    assert names(reader) == []


READS: dict[str, Callable[[BookReader], object]] = {
    "find": lambda reader: reader.find(0, "alice"),
    "find nobody": lambda reader: reader.find(0, "nobody"),
    "find by id": lambda reader: reader.find_by_id(5),
    "find or decoy": lambda reader: reader.find_or_decoy(0, "alice"),
    "find a decoy": lambda reader: reader.find_or_decoy(0, "aaa"),
    "earlier": lambda reader: reader.earlier(0, "r"),
    "whole page": lambda reader: reader.page(0, "", "", None, 1000),
    "short page": lambda reader: reader.page(0, "", "", None, 1),
    "page with a label": lambda reader: reader.page(0, "", "", "no such", 1),
    "page with a prefix": lambda reader: reader.page(0, "", "a", None, 1),
    "page of generated names": lambda reader: reader.page(0, "", "user-", None, 1),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_leaves_no_transaction_open(store: Store, reader: BookReader, read: str) -> None:
    """After an answer, whole or cut short, the whole log can be copied to the database."""
    save_three_versions(store)
    store.commit(users(11, 12, 13), [])
    READS[read](reader)
    store.commit(users(14), [])
    assert store.checkpoint()


# --- Which database is read. ---


def test_what_is_committed_is_seen_at_once(store: Store, reader: BookReader) -> None:
    """A reader that was there before sees each commit from the moment it returns."""
    for number in range(1, 20):
        store.commit([], [Saving(username=f"n{number}", user_id=number)])
        assert len(names(reader)) == number


@pytest.mark.parametrize("read", READS)
def test_the_writers_database_is_followed(
    store: Store, path: Path, board: Scoreboard, reader: BookReader, read: str
) -> None:
    """Where the writer has opened another database, that one is read from then on."""
    save_three_versions(store)
    store.commit(users(11), [Saving(user_id=12, request_id="r")])
    old = READS[read](reader)
    assert READS[read](reader) == old
    path.rename(path.with_name("old.db"))
    fresh = open_store(path)
    assert READS[read](reader) == old
    board.opened()
    assert READS[read](reader) in (None, ([], None), (None, False))
    fresh.commit([], [Saving(username="bob", user_id=6)])
    assert names(reader) == ["bob"]
    fresh.close()


def test_a_reader_cannot_write(store: Store, path: Path) -> None:
    """Whatever a worker or the console is made to do, its connection changes nothing."""
    store.commit(users(1), [])
    database = database_to_read(path)
    connection = open_to_read(database)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM user")
    assert connection.execute("SELECT count(*) FROM user").fetchall() == [(1,)]
    database.close()


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("instead", [None, b"Not a database.\n" * 1000, b""])
def test_what_cannot_be_read_is_unavailable(
    path: Path, reader: BookReader, read: str, instead: bytes | None
) -> None:
    """Where there is no database that can be read each answer says so, and nothing is made."""
    path.parent.mkdir()
    if instead is not None:
        path.write_bytes(instead)
    before = contents(path.parent)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"^The database cannot be read now: .+\.$"):
            READS[read](reader)
    assert contents(path.parent) == before


def test_a_database_that_comes_is_read(path: Path, reader: BookReader) -> None:
    """A reader that found no database finds it as soon as it is there."""
    with pytest.raises(Unavailable):
        reader.find(0, "alice")
    path.parent.mkdir()
    store = open_store(path)
    store.commit([], [Saving(username="alice", user_id=5)])
    assert reader.find(0, "alice") is not None
    store.close()
