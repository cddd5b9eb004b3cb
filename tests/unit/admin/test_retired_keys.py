"""Nothing gets into a book that is sealed with a key which the book does not have, or no more.

Otherwise a key could be retired while a worker that was slow still seals with it. First the rows of
a store alone, then the writer with two workers at it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.support.books import Saving, new_scoreboard, open_store, rows_of, take_key, users
from tests.support.writers import AtWriter, open_writer
from workers.book.models import Row
from workers.storage.operations import DELETE, DONE, LABEL, KeyRetired, Operation
from workers.storage.sqlite.database import Store

RETIRED = 2
REASON = "The key that it was sealed with has been retired; send it again."

GOOD: tuple[list[Row], list[Operation]] = (users(1), [tuple(Saving(username="a", user_id=2))])
"""A batch of a worker that knows the right key."""

ROW = (3, 0, RETIRED, b"sealed 3", 3000)
BAD: dict[str, tuple[list[Row], list[Operation]]] = {
    "row": ([ROW], []),
    "a row among others": ([*users(4), ROW, *users(5)], []),
    "save": ([], [tuple(Saving(user_id=3, key_id=RETIRED))]),
    "version": ([], [tuple(Saving(user_id=9, replaced=b"sealed 9", version=2, key_id=RETIRED))]),
    "labels": ([], [(LABEL, RETIRED, 9, b"sealed 9", b"again", "[]", None)]),
    "a save among others": (
        users(4),
        [(DELETE, None, 9), tuple(Saving(user_id=3, key_id=RETIRED)), tuple(Saving(user_id=5))],
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the database of a store with one user, which had two keys and lost one."""
    made = tmp_path / "user_data.db"
    with contextlib.closing(open_store(made)) as opened:
        take_key(opened, RETIRED)
        opened.commit(users(9), [])
        opened.connection.execute("DELETE FROM key WHERE id = ?", (RETIRED,))
    return made


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return a store on it."""
    with contextlib.closing(open_store(path)) as opened:
        opened.count_users()
        yield opened


def test_a_key_that_another_program_retires_is_missed_at_once(store: Store) -> None:
    """The writer remembers the keys, but not beyond a commit of somebody else's."""
    for number in (1, 2):
        store.commit(users(number), [])
    with contextlib.closing(apsw.Connection(str(store.path))) as administrator:
        administrator.execute("DELETE FROM key WHERE id = ?", (users(3)[0][2],))
    with pytest.raises(KeyRetired):
        store.commit(users(3), [])


@pytest.mark.parametrize("what", BAD)
def test_what_is_sealed_with_a_retired_key_is_refused(store: Store, what: str) -> None:
    """Nothing of the transaction is done, and the next one is not affected."""
    before = rows_of(store, "user")
    with pytest.raises(KeyRetired):
        store.commit(*BAD[what])
    assert rows_of(store, "user") == before
    assert store.commit(*GOOD) == [DONE]
    assert store.users == len(rows_of(store, "user")) == 3


@pytest.mark.parametrize("what", BAD)
def test_the_same_is_done_while_the_book_has_the_key(store: Store, what: str) -> None:
    """What is refused above is refused for its key alone."""
    take_key(store, RETIRED)
    rows, operations = BAD[what]
    assert store.commit(rows, operations) == [DONE] * len(operations)


def test_a_deletion_needs_no_key(store: Store) -> None:
    """Nothing is sealed in it: it is done whatever the worker knows."""
    assert store.commit([], [(DELETE, None, 9)]) == [DONE]


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("first", [True, False])
def test_one_workers_old_key_is_no_others_trouble(path: Path, what: str, first: bool) -> None:
    """Of two batches that came together the good one is done, and the other one says why not."""
    scoreboard = new_scoreboard()
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(contextlib.closing(open_writer(path, scoreboard)))
        workers = [opened.enter_context(contextlib.closing(AtWriter(writer))) for _ in range(2)]
        for worker, batch in zip(workers, [BAD[what], GOOD], strict=True):
            worker.send(*batch)
        for worker in workers if first else reversed(workers):
            worker.receive()
        writer.commit([])
        bad, good = (worker.answers() for worker in workers)
    assert (bad, good) == ([REASON], [(1, [DONE])])
    assert scoreboard.users == 3
    with contextlib.closing(open_store(path)) as store:
        assert [row[0] for row in rows_of(store, "user")] == [1, 2, 9]
