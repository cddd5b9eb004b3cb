"""Requests that are sent again: what the writer remembers of a `request_id`, and how long.

On a real database, with no process around it. What is sealed is any bytes here.
"""

from pathlib import Path

import apsw
import pytest

from tests.support.books import (
    NOW_MS,
    REQUESTS_KEPT_MS,
    Saving,
    everything,
    next_version,
    open_store,
    rows_of,
    save_often,
    users,
)
from tests.support.engines import BOTH_ENGINES
from workers.storage.operations import DELETE, DONE, STALE
from workers.storage.sqlite.database import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "user_data.db"


REQUEST = Saving(username="alice", user_id=1, request_id="r")


@BOTH_ENGINES
@pytest.mark.parametrize(
    "again",
    [
        REQUEST,
        REQUEST._replace(user_id=2),
        REQUEST._replace(replaced=b"sealed", version=2, sealed=b"another"),
        REQUEST._replace(username=None, user_id=3, labels="[]"),
    ],
)
def test_a_request_is_done_once(store: Store, again: Saving) -> None:
    """Sent again, however it was planned, it saves nothing and says what the first one made."""
    assert store.commit([], [REQUEST, again]) == [DONE, (1, 1, 7)]
    before = everything(store)
    assert store.commit([], [again]) == [(1, 1, 7)]
    assert everything(store) == before
    assert store.users == 1


@BOTH_ENGINES
def test_a_request_is_answered_with_its_own_version(store: Store) -> None:
    """What a request made is remembered though newer versions followed, or the user is gone."""
    save_often(store, 1, 2)
    third = next_version(store, 1, request_id="third")
    fourth = third._replace(replaced=third.sealed, version=4, sealed=b"4", request_id=None)
    assert store.commit([], [third, fourth, third]) == [DONE, DONE, (1, 3, 7)]
    assert store.commit([], [(DELETE, None, 1), third]) == [DONE, (1, 3, 7)]


@BOTH_ENGINES
def test_each_book_has_its_own_requests(store: Store) -> None:
    """The same `request_id` in another book is another request."""
    elsewhere = REQUEST._replace(user_id=2, book=1)
    assert store.commit([], [REQUEST, elsewhere, elsewhere]) == [DONE, DONE, (2, 1, 7)]


def test_no_request_is_remembered_twice(store: Store) -> None:
    """Even what goes past the writer's own look finds that the `request_id` is taken."""
    store.commit([], [REQUEST])
    columns = "book, request_id, user_id, version, saved_at_ms"
    with pytest.raises(apsw.ConstraintError):
        store.connection.execute(f"INSERT INTO request ({columns}) SELECT {columns} FROM request")


def test_a_request_that_was_not_done_is_not_remembered(store: Store) -> None:
    """Planned again after it was out of date, or after a failure, a request is done."""
    save_often(store, 9, 1)
    stale = REQUEST._replace(username="u9")
    assert store.commit([], [stale]) == [STALE]
    with pytest.raises(apsw.ConstraintError):
        store.commit(users(9), [REQUEST])
    assert store.commit([], [REQUEST]) == [DONE]


def test_a_request_is_forgotten_after_its_time(path: Path) -> None:
    """Up to the last millisecond of the setting it saves nothing again; then it is a new one."""
    store = open_store(path, requests_kept_ms=5000)
    assert store.commit([], [REQUEST]) == [DONE]
    second = next_version(store, 1, request_id="r", saved_at_ms=NOW_MS + 5000)
    assert store.commit([], [second]) == [(1, 1, 7)]
    assert store.commit([], [second._replace(saved_at_ms=NOW_MS + 5001)]) == [DONE]
    assert store.commit([], [second._replace(saved_at_ms=NOW_MS + 5002)]) == [(1, 2, 7)]
    store.close()


@pytest.mark.parametrize("value", ["'soon'", "x'ff'", "CAST(x'ff' AS TEXT)"])
def test_a_request_whose_time_was_altered_is_forgotten(store: Store, value: str) -> None:
    """It does not end the worker that writes, whatever somebody has put there."""
    store.commit([], [REQUEST])
    store.connection.execute(f"UPDATE request SET saved_at_ms = {value}")
    again = REQUEST._replace(username="bob", user_id=2)
    assert store.commit([], [again]) == [DONE]
    assert store.commit([], [again]) == [(2, 1, 7)]


def requests(first: int, number: int, at_ms: int) -> list[Saving]:
    """Return new users, each saved by a request of its own at one time."""
    ids = range(first, first + number)
    return [Saving(user_id=id, request_id=f"r{id}", saved_at_ms=at_ms) for id in ids]


def test_old_requests_are_forgotten_in_steps(store: Store) -> None:
    """Many old requests cost no commit much time: some go with each, and soon all are gone."""
    later_ms = NOW_MS + REQUESTS_KEPT_MS + 1
    store.commit([], [*requests(1, 1000, NOW_MS)])
    left = 1000
    for number in range(1, 51):
        store.commit([], [*requests(1000 + number, 1, later_ms)])
        now_left = len(rows_of(store, "request")) - number
        assert 0 <= left - now_left <= 100
        assert now_left < left or left == 0
        left = now_left
    assert left == 0
    assert [row[2] for row in rows_of(store, "request")] == [f"r{id}" for id in range(1001, 1051)]


def test_requests_do_not_outgrow_their_time(path: Path) -> None:
    """However many arrive in each commit, no more are remembered than arrived in the time."""
    store = open_store(path, requests_kept_ms=1000)
    for step in range(20):
        store.commit([], [*requests(1 + step * 500, 500, NOW_MS + step * 1000)])
        assert len(rows_of(store, "request")) <= 3 * 500
    store.close()
