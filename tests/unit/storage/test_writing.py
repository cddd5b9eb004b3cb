"""What the writer does to the rows: on a real database, but with no process around it.

What is sealed is any bytes here: the writer cannot open them.
"""

import sqlite3
from pathlib import Path
from typing import Any

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
    take_key,
    users,
)
from tests.support.engines import BOTH_ENGINES
from workers.book import history
from workers.storage.operations import DELETE, DONE, FULL, LABEL, STALE, Operation, nonce
from workers.storage.sqlite.database import Store

GONE = b"sealed by nobody"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "user_data.db"


def versions(store: Store, user_id: int) -> list[int]:
    """Return which older versions of a user's password are kept."""
    row = next(row for row in rows_of(store, "user") if row[0] == user_id)
    return [older.version for older in history.unpack(row[8])]


def labelling(replaced: bytes, labels: str, user_id: int = 1, **more: Any) -> Operation:
    """Return an operation that sets the labels of a row, and what is sealed with them."""
    values = {"key_id": 1, "sealed": b"sealed again", "older": None, **more}
    sealed = values["sealed"], labels, values["older"]
    return (LABEL, values["key_id"], user_id, replaced, *sealed)


def deletion(user_id: int) -> Operation:
    """Return an operation that deletes a user."""
    return (DELETE, None, user_id)


# --- New users. ---


@BOTH_ENGINES
def test_users_without_a_name_are_first_versions(store: Store) -> None:
    """A plain row is a user with the first version of its password, and no name or labels."""
    assert store.commit([*users(1), *users(2, book=7)], []) == []
    assert rows_of(store, "user") == [
        (1, 1, b"sealed 1", 1000, 0, 1, None, None, None),
        (2, 1, b"sealed 2", 2000, 7, 1, None, None, None),
    ]


@BOTH_ENGINES
def test_a_name_is_saved_with_its_user(store: Store) -> None:
    """A new user has all that it was saved with, and nothing older."""
    take_key(store, 2)
    saving = Saving(username="alice", user_id=5, book=3, key_id=2, sealed=b"\0\xff", labels='["a"]')
    assert store.commit([], [saving, Saving(user_id=6)]) == [DONE, DONE]
    assert everything(store) == [
        [
            (5, 2, b"\0\xff", NOW_MS, 3, 1, "alice", '["a"]', None),
            (6, 1, b"sealed", NOW_MS, 0, 1, None, None, None),
        ],
        [],
    ]


@BOTH_ENGINES
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


@BOTH_ENGINES
def test_a_name_is_free_in_every_other_book(store: Store) -> None:
    """Two books may have users of the same name; names that differ in case are different."""
    savings = [
        Saving(username="alice", user_id=1),
        Saving(username="alice", user_id=2, book=1),
        Saving(username="Alice", user_id=3),
    ]
    assert store.commit([], [*savings]) == [DONE] * 3
    assert store.users == 3


@BOTH_ENGINES
def test_any_number_of_users_has_no_name(store: Store) -> None:
    """Users without a name are never in each other's way."""
    assert store.commit(users(1, 2), [Saving(user_id=3), Saving(user_id=4)]) == [DONE, DONE]
    assert store.users == 4


# --- Versions. ---


@BOTH_ENGINES
def test_a_replaced_version_is_kept(store: Store) -> None:
    """The newest version and the older ones are in the user's row, as they were planned."""
    for key_id in (4, 5):
        take_key(store, key_id)
    first = Saving(username="alice", user_id=1, sealed=b"first", saved_at_ms=NOW_MS - 9, key_id=4)
    assert store.commit([], [first]) == [DONE]
    second = next_version(store, 1, sealed=b"second", key_id=5)
    assert store.commit([], [second]) == [DONE]
    older = second.older
    assert everything(store) == [[(1, 5, b"second", NOW_MS, 0, 2, "alice", None, older)], []]
    assert history.unpack(older) == [(1, 4, NOW_MS - 9, b"first")]


@BOTH_ENGINES
def test_a_user_without_a_name_has_versions_as_well(store: Store) -> None:
    """A save that names a generated name replaces the password, and gives the user no name."""
    store.commit(users(1), [])
    saving = next_version(store, 1, username="user-0000000000001")
    assert store.commit([], [saving]) == [DONE]
    newest = (1, 1, saving.sealed, NOW_MS, 0, 2, None, None, saving.older)
    assert rows_of(store, "user") == [newest]


@BOTH_ENGINES
@pytest.mark.parametrize("replaced", [b"1 of 1", b"3 of 1", b"", GONE])
@pytest.mark.parametrize("request_id", [None, "r"])
def test_a_version_that_moved_on_is_found_out(
    store: Store, replaced: bytes, request_id: str | None
) -> None:
    """A save that was planned on another version than the newest changes nothing at all."""
    save_often(store, 1, 2)
    before = everything(store)
    saving = next_version(store, 1, replaced=replaced, labels="[]", request_id=request_id)
    assert store.commit([], [saving]) == [STALE]
    assert store.commit([], [labelling(replaced, "[]")]) == [STALE]
    assert everything(store) == before


@BOTH_ENGINES
def test_a_row_is_known_by_its_nonce_alone(store: Store) -> None:
    """Two states of a row are told apart by the last byte of a nonce, whatever stands behind."""
    states = [bytes(23) + bytes([number]) + b"the same" for number in (1, 2)]
    store.commit([], [Saving(username="alice", user_id=1, sealed=states[0])])
    assert [nonce(state) for state in states] == [state[:24] for state in states]
    planned = next_version(store, 1, sealed=states[1])
    assert store.commit([], [planned._replace(replaced=states[0])]) == [STALE]
    assert store.commit([], [planned, planned]) == [DONE, STALE]


CHANGES: dict[str, Operation] = {
    "a save": Saving(user_id=1, replaced=b"1 of 1", version=2, sealed=b"another"),
    "labels": labelling(b"1 of 1", '["a"]'),
    "another key": labelling(b"1 of 1", "[]", key_id=2),
    "deleted and made again": Saving(username="u1", user_id=1, sealed=b"another"),
}
"""What may have become of a row of which an operation read `1 of 1`."""


@BOTH_ENGINES
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changed_in_a_row_is_found_out(store: Store, change: str) -> None:
    """Version, labels or key: what was planned on the row before that changes nothing."""
    take_key(store, 2)
    save_often(store, 1, 1)
    planned = [next_version(store, 1, labels="[]"), labelling(b"1 of 1", '["mine"]')]
    first = [deletion(1)] if change.startswith("deleted") else []
    assert store.commit([], [*first, CHANGES[change]])[-1] == DONE
    before = everything(store)
    assert store.commit([], planned) == [STALE, STALE]
    assert everything(store) == before


@BOTH_ENGINES
def test_a_user_that_is_gone_has_no_new_version(store: Store) -> None:
    """A save that was planned on a user who was deleted meanwhile changes nothing."""
    save_often(store, 1, 1)
    planned = [next_version(store, 1), labelling(b"1 of 1", "[]")]
    assert store.commit([], [deletion(1), *planned]) == [DONE, STALE, STALE]
    assert everything(store) == [[], []]


@BOTH_ENGINES
def test_of_two_saves_planned_on_one_version_one_is_done(store: Store) -> None:
    """Where two applications save the same name at once, the second is told to plan again."""
    save_often(store, 1, 1)
    savings = [next_version(store, 1, sealed=text) for text in (b"a", b"b")]
    assert store.commit([], [*savings]) == [DONE, STALE]
    assert store.commit([], [next_version(store, 1, sealed=b"b")]) == [DONE]
    assert rows_of(store, "user")[0][2] == b"b"
    assert versions(store, 1) == [1, 2]


# --- Labels and deletion. ---


@BOTH_ENGINES
def test_labels_are_those_that_were_planned(store: Store) -> None:
    """A save writes the labels that it was sealed with: others, the same, an empty list or none."""
    store.commit([], [Saving(username="alice", user_id=1)])
    seen = []
    for labels in ('["a"]', '["a"]', '["b"]', "[]", None):
        assert store.commit([], [next_version(store, 1, labels=labels)]) == [DONE]
        seen.append(rows_of(store, "user")[0][7])
    assert seen == ['["a"]', '["a"]', '["b"]', "[]", None]


@BOTH_ENGINES
def test_labels_are_set_alone(store: Store) -> None:
    """Labelling changes the labels of one user and what is sealed with them, and no version."""
    take_key(store, 2)
    save_often(store, 1, 2)
    save_often(store, 2, 1)
    user, other = rows_of(store, "user")
    operation = labelling(user[2], '["a","b"]', key_id=2, older=b"older again")
    assert store.commit([], [operation]) == [DONE]
    labelled = (1, 2, b"sealed again", *user[3:7], '["a","b"]', b"older again")
    assert everything(store) == [[labelled, other], []]


@BOTH_ENGINES
@pytest.mark.parametrize("operation", [labelling(b"1 of 1", "[]", 2), deletion(2)])
def test_what_is_done_to_a_user_that_is_gone_is_found_out(
    store: Store, operation: Operation
) -> None:
    """There is nobody to label or to delete any more: nothing changes."""
    save_often(store, 1, 2)
    before = everything(store)
    assert store.commit([], [operation]) == [STALE]
    assert everything(store) == before
    assert store.users == 1


@BOTH_ENGINES
def test_a_deleted_user_leaves_nothing(store: Store) -> None:
    """A user goes with all versions, and no other does; the name is free for a new user."""
    save_often(store, 1, 3)
    save_often(store, 2, 3)
    assert store.commit([], [deletion(1)]) == [DONE]
    assert [row[0] for row in rows_of(store, "user")] == [2]
    assert store.commit([], [deletion(1), Saving(username="u1", user_id=3)]) == [STALE, DONE]
    assert versions(store, 3) == []


# --- The number of users. ---


@BOTH_ENGINES
def test_the_number_of_users_follows_every_change(store: Store) -> None:
    """Rows and new users count, new versions and what was not done do not, deleted users go."""
    replacing = Saving(user_id=4, replaced=b"sealed", version=2, sealed=b"again")
    steps: list[tuple[list[Any], list[Any], int]] = [
        (users(1, 2, 3), [], 3),
        ([], [Saving(username="alice", user_id=4), Saving(username="alice", user_id=5)], 4),
        ([], [replacing, labelling(b"again", "[]", 4)], 4),
        (users(6), [deletion(1), deletion(1), deletion(2)], 3),
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
    store.commit([], [deletion(2)])
    assert store.checkpoint()
    store.close()
    assert found(path, sealed) == [1, 2]
    assert list(path.parent.iterdir()) == [path]


USERS_OF_MANY = 600


def deleted_at_random(path: Path) -> list[bytes]:
    """Fill a book of many pages, delete most of it, and return what must not be found any more."""
    store = open_store(path)
    sealed = [b"<%08d>" % number + b"x" * 36 for number in range(2 * USERS_OF_MANY)]
    sealed += [
        b"<%08d>" % number + b"x" * 700 for number in range(2 * USERS_OF_MANY, 3 * USERS_OF_MANY)
    ]
    for round_ in range(3):
        for user_id, text in enumerate(sealed[USERS_OF_MANY * round_ :][:USERS_OF_MANY]):
            saving = Saving(user_id=user_id, sealed=text)
            if round_:
                saving = next_version(store, user_id, kept=0, sealed=text)
            assert store.commit([], [saving]) == [DONE]
    for user_id in range(0, USERS_OF_MANY, 2):
        store.commit([], [deletion(user_id)])
    assert store.checkpoint()
    store.close()
    return sealed[: 2 * USERS_OF_MANY] + sealed[2 * USERS_OF_MANY :: 2]


@pytest.mark.xfail(strict=True, reason="SQLite zeroes cells, not what a page's split leaves behind")
def test_what_was_deleted_is_not_in_a_file_of_many_users(path: Path) -> None:
    """Sealed passwords that are not kept are overwritten also where the book has many pages."""
    assert found(path, deleted_at_random(path)) == []


def test_vacuum_removes_what_split_pages_left(path: Path) -> None:
    """After the documents' command nothing is left, and what is kept still is there."""
    gone = deleted_at_random(path)
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    assert found(path, gone) == []
    assert path.read_bytes().count(b"x" * 700) == USERS_OF_MANY // 2


def found(path: Path, sealed: list[bytes]) -> list[int]:
    """Return which sealed texts are in a file; each begins with something of its own."""
    data = path.read_bytes()
    return [number for number, text in enumerate(sealed) if text[:10] in data]


def test_requests_of_a_clock_that_was_ahead_are_forgotten(store: Store) -> None:
    """They stand before those that come later, which would be remembered for as long as they."""
    kept_ms = REQUESTS_KEPT_MS
    times = [NOW_MS + 365 * kept_ms] * 80 + [NOW_MS] * 20 + [NOW_MS + kept_ms + 1] * 20
    for number, at_ms in enumerate(times, 1):
        saving = Saving(
            username=f"user {number}",
            user_id=number,
            saved_at_ms=at_ms,
            request_id=f"{number}",
        )
        assert store.commit([], [saving]) == [DONE]
    assert len(rows_of(store, "request")) == 20
    assert len(rows_of(store, "user")) == len(times)


# --- Books that may not have any number of users. ---


def save_one(number: int, *, users_max: int = 3, book: int = 7, **more: Any) -> Saving:
    """Return a save of a new user into a book that may have three users."""
    return Saving(user_id=number, book=book, users_max=users_max, **more)


def test_a_book_gets_no_more_users_than_it_may_have(store: Store) -> None:
    """With names or without, in one commit or in many, whoever planned the saves."""
    saves = [save_one(1), save_one(2, username="a"), save_one(3, username="b")]
    assert store.commit([], [*saves, save_one(4)]) == [DONE, DONE, DONE, FULL]
    assert store.commit([], [save_one(5, username="c"), save_one(6)]) == [FULL, FULL]
    assert store.users == len(rows_of(store, "user")) == 3
    assert store.commit(users(10), [save_one(9, book=8)]) == [DONE]
    assert store.commit([], [save_one(7, users_max=0)]) == [DONE], "the quota was taken away"
    assert store.users == 6


@BOTH_ENGINES
def test_a_full_book_takes_new_versions(store: Store) -> None:
    """What makes no user is saved; a save that was planned for a new one is planned again."""
    store.commit([], [save_one(number, username=f"{number}") for number in (1, 2, 3)])
    saving = next_version(store, 2)._replace(book=7, users_max=3)
    assert store.commit([], [saving]) == [DONE]
    assert store.commit([], [save_one(4, username="1"), save_one(4, username="4")]) == [STALE, FULL]


@BOTH_ENGINES
def test_deleting_makes_room(store: Store) -> None:
    """Within the same commit too; users of other books make none."""
    store.commit(users(20), [save_one(number) for number in (1, 2, 3)])
    assert store.commit([], [deletion(20), save_one(4)]) == [DONE, FULL]
    assert store.commit([], [deletion(2), save_one(4), save_one(5)]) == [DONE, DONE, FULL]


@BOTH_ENGINES
def test_rows_count_as_well(store: Store) -> None:
    """Those that were saved before the book had a quota, and those of another worker meanwhile."""
    store.commit(users(1, book=7), [])
    assert store.commit([], [save_one(10)]) == [DONE]
    assert store.commit(users(2, book=7), [save_one(11)]) == [FULL]


def test_what_was_not_committed_does_not_count(store: Store) -> None:
    """After a commit that failed the users are counted again."""
    store.commit([], [save_one(1), save_one(2)])
    unusable = next_version(store, 1)._replace(sealed=None)  # type: ignore[arg-type]
    with pytest.raises(apsw.ConstraintError):
        store.commit([], [save_one(3), unusable])
    assert store.commit([], [save_one(3), save_one(4)]) == [DONE, FULL]


@BOTH_ENGINES
def test_a_repeated_save_is_recognised_in_a_full_book(store: Store) -> None:
    """It was done, and that is what its client is told."""
    first = save_one(1, request_id="r")
    assert store.commit([], [first, save_one(2), save_one(3)]) == [DONE] * 3
    assert store.commit([], [first._replace(user_id=4)]) == [(1, 1, first.fingerprint)]


@BOTH_ENGINES
def test_the_users_of_the_common_book_are_counted_too(store: Store) -> None:
    """No index has those without a name; users of other books, with a name or not, do not count."""
    others = [save_one(10, username="a", users_max=0), save_one(11, users_max=0)]
    common = [save_one(1, book=0), save_one(2, book=0, username="a")]
    store.commit(users(20, book=8), [*others, *common])
    assert store.commit([], [save_one(3, book=0), save_one(4, book=0)]) == [DONE, FULL]
    assert store.commit([], [deletion(2), deletion(10), save_one(5, book=0)]) == [DONE] * 3
    assert store.commit(users(6), [save_one(7, book=0)]) == [FULL]
