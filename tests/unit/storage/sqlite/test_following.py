"""Which database a reader reads, and that it leaves nothing open there, whatever is read."""

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from pwserver.errors import Unavailable
from pwserver.ipc import Scoreboard
from tests.support.books import (
    Saving,
    add_shop,
    contents,
    open_store,
    save_three_versions,
    users,
)
from workers.storage.sqlite.database import Store, database_to_read, open_to_read
from workers.storage.sqlite.reading import BookReader

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
    "page of an application": lambda reader: reader.page(7, "", "", None, 1),
    "applications": lambda reader: reader.applications(),
}


@pytest.mark.parametrize("read", READS)
def test_a_read_leaves_no_transaction_open(store: Store, reader: BookReader, read: str) -> None:
    """After an answer, whole or cut short, the whole log can be copied to the database."""
    save_three_versions(store)
    store.commit(users(11, 12, 13), [])
    READS[read](reader)
    store.commit(users(14), [])
    assert store.checkpoint()


def test_what_is_committed_is_seen_at_once(store: Store, reader: BookReader) -> None:
    """A reader that was there before sees each commit from the moment it returns."""
    for number in range(1, 20):
        store.commit([], [Saving(username=f"n{number}", user_id=number)])
        assert len(reader.page(0, "", "", None, 1000)[0]) == number


@pytest.mark.parametrize("read", READS)
def test_the_writers_database_is_followed(
    store: Store, path: Path, board: Scoreboard, reader: BookReader, read: str
) -> None:
    """Where the writer has opened another database, that one is read from then on."""
    save_three_versions(store)
    store.commit([*users(11), *users(13, book=7)], [Saving(user_id=12, request_id="r")])
    add_shop(store)
    old = READS[read](reader)
    assert READS[read](reader) == old
    path.rename(path.with_name("old.db"))
    fresh = open_store(path)
    assert READS[read](reader) == old
    board.opened()
    assert READS[read](reader) in (None, [], ([], None), (None, False))
    fresh.commit([], [Saving(username="bob", user_id=6)])
    assert [entry.name for entry in reader.page(0, "", "", None, 10)[0]] == ["bob"]
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
