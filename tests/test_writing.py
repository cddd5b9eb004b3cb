"""What the writer does to the rows: on a real database, but with no process around it.

What is sealed is any bytes here: the writer cannot open them.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.books import (
    NOW_MS,
    REQUESTS_KEPT_MS,
    Saving,
    next_version,
    open_store,
    rows_of,
    users,
)
from workers import history
from workers.database import Store
from workers.writing import DELETE, DONE, LABEL, STALE

TABLES = ("user", "request")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "user_data.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return a new database, open."""
    opened = open_store(path)
    yield opened
    opened.close()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    """Return all that is in the book."""
    return [rows_of(store, table) for table in TABLES]


def versions(store: Store, user_id: int) -> list[int]:
    """Return which older versions of a user's password are kept."""
    row = next(row for row in rows_of(store, "user") if row[0] == user_id)
    return [older.version for older in history.unpack(row[8])]


def save_often(store: Store, user_id: int, times: int) -> None:
    """Save a new user, and new versions of it until there are so many, each sealed as its text."""
    for replaced in range(times):
        sealed = b"%d of %d" % (replaced + 1, user_id)
        saving = Saving(username=f"u{user_id}", user_id=user_id, sealed=sealed)
        if replaced:
            saving = next_version(store, user_id, sealed=sealed)
        assert store.commit([], [saving]) == [DONE]


# --- New users. ---


def test_users_without_a_name_are_first_versions(store: Store) -> None:
    """A plain row is a user with the first version of its password, and no name or labels."""
    assert store.commit([*users(1), *users(2, book=7)], []) == []
    assert rows_of(store, "user") == [
        (1, 1, b"sealed 1", 1000, 0, 1, None, None, None),
        (2, 1, b"sealed 2", 2000, 7, 1, None, None, None),
    ]


def test_a_name_is_saved_with_its_user(store: Store) -> None:
    """A new user has all that it was saved with, and nothing older."""
    saving = Saving(username="alice", user_id=5, book=3, key_id=2, sealed=b"\0\xff", labels='["a"]')
    assert store.commit([], [saving, Saving(user_id=6)]) == [DONE, DONE]
    assert everything(store) == [
        [
            (5, 2, b"\0\xff", NOW_MS, 3, 1, "alice", '["a"]', None),
            (6, 1, b"sealed", NOW_MS, 0, 1, None, None, None),
        ],
        [],
    ]


@pytest.mark.parametrize(
    "second",
    [
        Saving(username="alice", user_id=2),
        Saving(username="alice", user_id=2, labels="[]", request_id="r"),
        Saving(username="bob", user_id=1),
        Saving(username="alice", user_id=1),
    ],
)
def test_a_name_or_an_id_that_is_taken_is_found_out(store: Store, second: Saving) -> None:
    """What another worker has saved first is not touched; in the same batch or in one before."""
    first = Saving(username="alice", user_id=1)
    assert store.commit([], [first, second]) == [DONE, STALE]
    before = everything(store)
    assert store.commit([], [second]) == [STALE]
    assert everything(store) == before
    assert len(before[0]) == store.users == 1


def test_a_name_is_free_in_every_other_book(store: Store) -> None:
    """Two books may have users of the same name; names that differ in case are different."""
    savings = [
        Saving(username="alice", user_id=1),
        Saving(username="alice", user_id=2, book=1),
        Saving(username="Alice", user_id=3),
    ]
    assert store.commit([], [*savings]) == [DONE] * 3
    assert store.users == 3


def test_any_number_of_users_has_no_name(store: Store) -> None:
    """Users without a name are never in each other's way."""
    assert store.commit(users(1, 2), [Saving(user_id=3), Saving(user_id=4)]) == [DONE, DONE]
    assert store.users == 4


# --- Versions. ---


def test_a_replaced_version_is_kept(store: Store) -> None:
    """The newest version and the older ones are in the user's row, as they were planned."""
    first = Saving(username="alice", user_id=1, sealed=b"first", saved_at_ms=NOW_MS - 9, key_id=4)
    assert store.commit([], [first]) == [DONE]
    second = next_version(store, 1, sealed=b"second", key_id=5)
    assert store.commit([], [second]) == [DONE]
    older = second.older
    assert everything(store) == [[(1, 5, b"second", NOW_MS, 0, 2, "alice", None, older)], []]
    assert history.unpack(older) == [(1, 4, NOW_MS - 9, b"first")]


def test_a_user_without_a_name_has_versions_as_well(store: Store) -> None:
    """A save that names a generated name replaces the password, and gives the user no name."""
    store.commit(users(1), [])
    saving = Saving(username="user-0000000000001", user_id=1, replaced=1)
    assert store.commit([], [saving]) == [DONE]
    assert rows_of(store, "user") == [(1, 1, b"sealed", NOW_MS, 0, 2, None, None, None)]


@pytest.mark.parametrize("replaced", [1, 3, 2**53])
@pytest.mark.parametrize("request_id", [None, "r"])
def test_a_version_that_moved_on_is_found_out(
    store: Store, replaced: int, request_id: str | None
) -> None:
    """A save that was planned on another version than the newest changes nothing at all."""
    save_often(store, 1, 2)
    before = everything(store)
    saving = Saving(username="u1", user_id=1, replaced=replaced, labels="[]", request_id=request_id)
    assert store.commit([], [saving]) == [STALE]
    assert everything(store) == before


def test_a_user_that_is_gone_has_no_new_version(store: Store) -> None:
    """A save that was planned on a user who was deleted meanwhile changes nothing."""
    save_often(store, 1, 1)
    saving = Saving(username="u1", user_id=1, replaced=1)
    assert store.commit([], [(DELETE, 1), saving]) == [DONE, STALE]
    assert everything(store) == [[], []]


def test_of_two_saves_planned_on_one_version_one_is_done(store: Store) -> None:
    """Where two applications save the same name at once, the second is told to plan again."""
    save_often(store, 1, 1)
    savings = [Saving(username="u1", user_id=1, replaced=1, sealed=text) for text in (b"a", b"b")]
    assert store.commit([], [*savings]) == [DONE, STALE]
    assert store.commit([], [savings[1]._replace(replaced=2)]) == [DONE]
    assert rows_of(store, "user")[0][2] == b"b"


# --- Labels and deletion. ---


def test_labels_stay_until_others_are_given(store: Store) -> None:
    """A save without labels leaves them as they are; with labels, even none, it sets them."""
    seen = []
    for replaced, labels in enumerate(['["a"]', None, '["b"]', "[]", None]):
        saving = Saving(username="alice", user_id=1, replaced=replaced, labels=labels)
        assert store.commit([], [saving]) == [DONE]
        seen.append(rows_of(store, "user")[0][7])
    assert seen == ['["a"]', '["a"]', '["b"]', "[]", "[]"]


def test_labels_are_set_alone(store: Store) -> None:
    """Labelling changes the labels of one user, and no password or version."""
    save_often(store, 1, 2)
    save_often(store, 2, 1)
    user, other = rows_of(store, "user")
    assert store.commit([], [(LABEL, 1, '["a","b"]')]) == [DONE]
    assert everything(store) == [[(*user[:7], '["a","b"]', user[8]), other], []]


@pytest.mark.parametrize("operation", [(LABEL, 2, "[]"), (DELETE, 2)])
def test_what_is_done_to_a_user_that_is_gone_is_found_out(
    store: Store, operation: tuple[Any, ...]
) -> None:
    """There is nobody to label or to delete any more: nothing changes."""
    save_often(store, 1, 2)
    before = everything(store)
    assert store.commit([], [operation]) == [STALE]
    assert everything(store) == before
    assert store.users == 1


def test_a_deleted_user_leaves_nothing(store: Store) -> None:
    """A user goes with all versions, and no other does; the name is free for a new user."""
    save_often(store, 1, 3)
    save_often(store, 2, 3)
    assert store.commit([], [(DELETE, 1)]) == [DONE]
    assert [row[0] for row in rows_of(store, "user")] == [2]
    assert store.commit([], [(DELETE, 1), Saving(username="u1", user_id=3)]) == [STALE, DONE]
    assert versions(store, 3) == []


# --- The number of users. ---


def test_the_number_of_users_follows_every_change(store: Store) -> None:
    """Rows and new users count, new versions and what was not done do not, deleted users go."""
    steps: list[tuple[list[Any], list[Any], int]] = [
        (users(1, 2, 3), [], 3),
        ([], [Saving(username="alice", user_id=4), Saving(username="alice", user_id=5)], 4),
        ([], [Saving(username="alice", user_id=4, replaced=1), (LABEL, 4, "[]")], 4),
        (users(6), [(DELETE, 1), (DELETE, 1), (DELETE, 2)], 3),
        ([], [], 3),
        ([], [Saving(user_id=7, request_id="r"), Saving(user_id=8, request_id="r")], 4),
    ]
    for rows, operations, number in steps:
        store.commit(rows, operations)
        assert store.users == number == len(rows_of(store, "user"))


def test_what_is_rolled_back_is_not_counted(store: Store) -> None:
    """A commit that fails leaves the number as it was, and so does the next one."""
    store.commit(users(1), [])
    with pytest.raises(apsw.ConstraintError):
        store.commit(users(2, 1), [Saving(user_id=3)])
    assert store.users == 1
    store.commit([], [])
    assert store.users == 1


# --- Requests that are sent again. ---

REQUEST = Saving(username="alice", user_id=1, request_id="r")


@pytest.mark.parametrize(
    "again",
    [
        REQUEST,
        REQUEST._replace(user_id=2),
        REQUEST._replace(replaced=1, sealed=b"another"),
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


def test_a_request_is_answered_with_its_own_version(store: Store) -> None:
    """What a request made is remembered though newer versions followed, or the user is gone."""
    save_often(store, 1, 2)
    third = Saving(username="u1", user_id=1, replaced=2, request_id="third")
    fourth = third._replace(replaced=3, request_id=None)
    assert store.commit([], [third, fourth, third]) == [DONE, DONE, (1, 3, 7)]
    assert store.commit([], [(DELETE, 1), third]) == [DONE, (1, 3, 7)]


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
    """Planned anew after it was out of date, or after a failure, a request is done."""
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
    second = REQUEST._replace(replaced=1, saved_at_ms=NOW_MS + 5000)
    assert store.commit([], [second]) == [(1, 1, 7)]
    assert store.commit([], [second._replace(saved_at_ms=NOW_MS + 5001)]) == [DONE]
    assert store.commit([], [second._replace(saved_at_ms=NOW_MS + 5002)]) == [(1, 2, 7)]
    store.close()


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


# --- What is gone is gone from the file. ---


@pytest.mark.parametrize("length", [24, 41, 1000, 20_000])
def test_what_was_deleted_or_pruned_is_not_in_the_file(path: Path, length: int) -> None:
    """Sealed passwords that are not kept are overwritten: a stolen file has the kept ones only."""
    store = open_store(path)
    sealed = [b"<%08d>" % number + b"x" * (length - 10) for number in range(5)]
    for name, user_id, texts in (("a", 1, sealed[:3]), ("b", 2, sealed[3:])):
        store.commit([], [Saving(username=name, user_id=user_id, sealed=texts[0])])
        for text in texts[1:]:
            store.commit([], [next_version(store, user_id, kept=1, sealed=text)])
    assert store.checkpoint()
    assert found(path, sealed) == [1, 2, 3, 4]
    store.commit([], [(DELETE, 2)])
    assert store.checkpoint()
    store.close()
    assert found(path, sealed) == [1, 2]
    assert list(path.parent.iterdir()) == [path]


def deleted_at_random(path: Path) -> list[bytes]:
    """Fill a book of many pages, delete most of it, and return what must not be found any more."""
    store = open_store(path)
    sealed = [b"<%08d>" % number + b"x" * 36 for number in range(400)]
    sealed += [b"<%08d>" % number + b"x" * 700 for number in range(400, 600)]
    for round_ in range(3):
        for user_id, text in enumerate(sealed[200 * round_ : 200 * (round_ + 1)]):
            store.commit([], [Saving(user_id=user_id, replaced=round_, sealed=text)])
    for user_id in range(0, 200, 2):
        store.commit([], [(DELETE, user_id)])
    assert store.checkpoint()
    store.close()
    return sealed[:400] + sealed[400:600:2]


@pytest.mark.xfail(strict=True, reason="SQLite zeroes cells, not what a page's split leaves behind")
def test_what_was_deleted_is_not_in_a_file_of_many_users(path: Path) -> None:
    """Sealed passwords that are not kept are overwritten also where the book has many pages."""
    assert found(path, deleted_at_random(path)) == []


def test_vacuum_removes_what_split_pages_left(path: Path) -> None:
    """After the README's command nothing is left, and what is kept still is there."""
    gone = deleted_at_random(path)
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    assert found(path, gone) == []
    assert path.read_bytes().count(b"x" * 700) == 100


def found(path: Path, sealed: list[bytes]) -> list[int]:
    """Return which sealed texts are in a file; each begins with something of its own."""
    data = path.read_bytes()
    return [number for number, text in enumerate(sealed) if text[:10] in data]
