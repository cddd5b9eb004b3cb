"""A row as a sealed whole: rows of a real book, which a worker's own code has planned."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from pwserver.errors import DatabaseRefused, UnknownUser, UnknownVersion
from pwserver.wire.messages import DeleteUser, LabelUser, RestorePassword, SavePassword
from tests.support.books import BOTH_KEYS, KEY, KEYRING, NEXT_KEY
from tests.support.planning import Change, Planner
from workers.book import history, rows
from workers.book.history import OlderVersion
from workers.book.keyring import MasterKey
from workers.book.models import STORED_USER, User, UserRow, sql, stored_user
from workers.book.vault import Vault
from workers.storage.operations import DONE, LABEL, nonce

KEPT = 3
LABELS = ["work", "z\u00fcrich"]
FIRST, NEWEST = "the first of all", "the newest of all"


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Planner]:
    """Return a book in which alice and bob have labels and two older versions each."""
    with Planner(tmp_path / "user_data.db", KEPT) as planner:
        for name in ("alice", "bob"):
            for number, password in enumerate((FIRST, "the second", NEWEST), 1):
                planner.do(SavePassword(f"{password} {name} {number}", name, LABELS))
        yield planner


@pytest.fixture
def vault() -> Vault:
    """Return a vault that knows both keys, as another worker has it."""
    return Vault(BOTH_KEYS)


def passwords(vault: Vault, user: UserRow) -> dict[int, str]:
    """Return every version that is in a row."""
    found = {}
    for version in (*(each.version for each in history.unpack(user.older)), user.version):
        opened = rows.open_version(vault, user, version)
        assert opened is not None
        found[version] = opened[0]
    return found


def check_refused(vault: Vault, user: UserRow) -> None:
    """Check that nothing comes out of a row, and nothing can be made of it."""
    uses: list[Callable[[], Any]] = [
        lambda: rows.open_newest(vault, user),
        lambda: rows.open_version(vault, user, user.version),
        lambda: rows.open_version(vault, user, 1),
        lambda: rows.open_version(vault, user, 2**40),
        lambda: rows.older_with_newest(vault, user, KEPT),
        lambda: rows.reseal(vault, user, None),
    ]
    for use in uses:
        with pytest.raises(DatabaseRefused, match=rf"^the password of user {user.id} cannot be"):
            use()


# --- What is as it was made opens. ---


def test_all_versions_of_a_row_open(book: Planner, vault: Vault) -> None:
    """Each version comes back as it was saved and with its time, and no other comes at all."""
    user = book.row("alice")
    assert passwords(vault, user) == {
        1: f"{FIRST} alice 1",
        2: "the second alice 2",
        3: f"{NEWEST} alice 3",
    }
    times = [(rows.open_version(vault, user, version) or ("", 0))[1] for version in (1, 2, 3)]
    assert times == [user.saved_at_ms - 2000, user.saved_at_ms - 1000, user.saved_at_ms]
    assert [rows.open_version(vault, user, version) for version in (0, 4, 2**53)] == [None] * 3


def test_a_row_that_is_sealed_anew_is_the_same_to_who_reads_it(book: Planner) -> None:
    """With another key nothing but the key changes, and the old key is not needed any more."""
    user = book.row("alice")
    again = rows.reseal(Vault(BOTH_KEYS), user, user.labels)
    assert again.key_id == NEXT_KEY.id
    assert again == user._replace(key_id=again.key_id, sealed=again.sealed, older=again.older)
    alone = Vault(BOTH_KEYS.without(KEY.id))
    assert passwords(alone, again) == passwords(Vault(KEYRING), user)
    for each in history.unpack(again.older):
        assert each.key_id == NEXT_KEY.id
    check_refused(Vault(KEYRING), again)
    check_refused(alone, user)


def test_what_is_sealed_anew_is_another_state_of_the_row(book: Planner) -> None:
    """Even where nothing else changes: so the writer can tell that a row was read before that."""
    user = book.row("alice")
    again = rows.reseal(Vault(KEYRING), user, user.labels)
    assert again.sealed[:24] != user.sealed[:24]
    assert again == user._replace(sealed=again.sealed)


def test_no_more_versions_are_kept_than_wanted(book: Planner, vault: Vault) -> None:
    """What a lower setting leaves out is gone with the next save, whichever key seals it."""
    user = book.row("alice")
    for keyring in (KEYRING, BOTH_KEYS):
        for kept, versions in ((3, [1, 2, 3]), (2, [2, 3]), (1, [3]), (0, [])):
            older = rows.older_with_newest(Vault(keyring), user, kept)
            assert [each.version for each in history.unpack(older)] == versions
            assert (older is None) == (not versions)


# --- What was altered does not. ---

KINDS = {"sealed": "BLOB", "older": "BLOB", "username": "TEXT", "labels": "TEXT"}


def bytes_of(value: int | str | bytes | None) -> bytes:
    """Return what is in a column, byte by byte."""
    assert value is not None
    if isinstance(value, int):
        return value.to_bytes(8, "big", signed=True)
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("column", UserRow._fields)
def test_a_row_in_which_a_byte_was_altered_never_opens(
    book: Planner, vault: Vault, column: str
) -> None:
    """Whichever byte of whichever column in the file it is, no version comes out any more."""
    book.do(DeleteUser("bob"))
    connection, user = book.store.connection, book.row("alice")
    kind, whole = KINDS.get(column, "INTEGER"), bytes_of(getattr(user, column))
    select = sql(User.select(*STORED_USER))
    for at in range(len(whole)):
        for bits in (0x01, 0x80, 0xFF):
            altered = whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
            stored = altered if column in KINDS else int.from_bytes(altered, "big", signed=True)
            connection.execute("BEGIN")
            connection.execute(f"UPDATE user SET {column} = CAST(? AS {kind})", (stored,))
            (found,) = map(stored_user, connection.execute(select))
            connection.execute("ROLLBACK")
            assert getattr(found, column) != getattr(user, column)
            check_refused(vault, found)
    assert passwords(vault, book.row("alice"))[3] == f"{NEWEST} alice 3"


NO_SUCH_VALUES: list[dict[str, Any]] = [
    {"id": -1},
    {"id": "7"},
    {"version": -1},
    {"version": 0},
    {"version": 2.5},
    {"version": b"3"},
    {"version": 2**63},
    {"key_id": -1},
    {"key_id": 3},
    {"key_id": "1"},
    {"sealed": None},
    {"sealed": b""},
    {"sealed": bytes(46)},
    {"sealed": "a text"},
    {"sealed": 5},
    {"saved_at_ms": -1},
    {"saved_at_ms": "yesterday"},
    {"book": -1},
    {"book": 2**32},
    {"older": "a text"},
    {"older": 5},
    {"older": None},
    {"username": b"alice"},
    {"username": 5},
    {"username": "alice\udcff"},
    {"username": None},
    {"labels": b"[]"},
    {"labels": 5},
    {"labels": None},
]


@pytest.mark.parametrize("values", NO_SUCH_VALUES, ids=str)
def test_values_that_no_row_has_are_refused(
    book: Planner, vault: Vault, values: dict[str, Any]
) -> None:
    """Numbers, texts and types that only tampering puts into a row are refused like the rest."""
    check_refused(vault, book.row("alice")._replace(**values))


def older(user: UserRow, change: Callable[[list[OlderVersion]], list[OlderVersion]]) -> UserRow:
    """Return a row in which somebody has rearranged the older versions."""
    return user._replace(older=history.pack(change(history.unpack(user.older))))


def rolled_back(user: UserRow, *, whole: bool) -> UserRow:
    """Return a row with its second version in the newest's place, and that one gone."""
    first, second = history.unpack(user.older)
    user = user._replace(sealed=second.sealed, older=history.pack([first]))
    if whole:
        user = user._replace(version=second.version, saved_at_ms=second.saved_at_ms)
    return user


def newest_among_older(user: UserRow) -> UserRow:
    """Return a row that has its newest version once more among the older ones."""
    newest = OlderVersion(user.version, user.key_id, user.saved_at_ms, user.sealed)
    return older(user, lambda versions: [*versions, newest])


def exchanged(first: OlderVersion, second: OlderVersion) -> list[OlderVersion]:
    """Return two versions, each with what is sealed of the other."""
    return [first._replace(sealed=second.sealed), second._replace(sealed=first.sealed)]


MOVED: dict[str, Callable[[UserRow, UserRow], UserRow]] = {
    "all but the id is another's": lambda alice, bob: bob._replace(id=alice.id),
    "all but id and name is another's": lambda alice, bob: bob._replace(
        id=alice.id, username=alice.username
    ),
    "the name is another's": lambda alice, bob: alice._replace(username=bob.username),
    "the password is another's": lambda alice, bob: alice._replace(sealed=bob.sealed),
    "the passwords are another's": lambda alice, bob: alice._replace(
        sealed=bob.sealed, older=bob.older
    ),
    "the older versions are another's": lambda alice, bob: alice._replace(older=bob.older),
    "a copy with another id": lambda alice, bob: alice._replace(id=alice.id + 1),
    "a copy in another book": lambda alice, bob: alice._replace(book=1),
    "a copy without a name": lambda alice, bob: alice._replace(username=None),
    "the older version in the newest's place": lambda alice, bob: rolled_back(alice, whole=False),
    "rolled back": lambda alice, bob: rolled_back(alice, whole=True),
    "the newest among the older": lambda alice, bob: newest_among_older(alice),
    "older versions exchanged": lambda alice, bob: older(alice, lambda each: exchanged(*each)),
    "older versions in another order": lambda alice, bob: older(alice, lambda each: each[::-1]),
    "an older version twice": lambda alice, bob: older(alice, lambda each: [*each, each[0]]),
    "an older version missing": lambda alice, bob: older(alice, lambda each: each[1:]),
    "no older versions": lambda alice, bob: alice._replace(older=None),
    "another's older version": lambda alice, bob: older(
        alice, lambda each: [each[0], history.unpack(bob.older)[1]]
    ),
    "other labels": lambda alice, bob: alice._replace(labels="[]"),
    "another time": lambda alice, bob: alice._replace(saved_at_ms=alice.saved_at_ms + 1),
    "another key's number": lambda alice, bob: alice._replace(key_id=NEXT_KEY.id),
}


@pytest.mark.parametrize("how", MOVED)
def test_what_was_moved_never_opens(book: Planner, vault: Vault, how: str) -> None:
    """Swapped with another row, copied, or put into another version's place, it is refused."""
    moved = MOVED[how](book.row("alice"), book.row("bob"))
    assert moved not in (book.row("alice"), book.row("bob"))
    check_refused(vault, moved)


def test_a_refusal_says_whose_it_is_and_nothing_else(book: Planner, vault: Vault) -> None:
    """It has the user's id for the log, and neither the name nor any of the passwords."""
    user = book.row("alice")
    with pytest.raises(DatabaseRefused) as refusal:
        rows.open_newest(vault, user._replace(version=7))
    assert str(refusal.value) == (
        f"the password of user {user.id} cannot be given out: it does not open: it was altered, "
        "or moved from elsewhere."
    )
    assert refusal.value.__suppress_context__


def test_nothing_is_added_to_a_row_that_was_altered(book: Planner, vault: Vault) -> None:
    """A save, a restore or labels would seal it again, and hide what was done to it: refused."""
    set_labels = "UPDATE user SET labels = '[]' WHERE username = 'alice'"
    book.store.connection.execute(set_labels)
    altered = book.row("alice")
    changes = (SavePassword("p", "alice"), RestorePassword("alice", 1), LabelUser("alice", ["a"]))
    for change in changes:
        with pytest.raises(DatabaseRefused):
            book.do(change)
    assert book.row("alice") == altered
    book.do(SavePassword("p", "bob"))
    assert passwords(vault, book.row("bob"))[4] == "p"


# --- Any history of a book. ---

NAMES = st.sampled_from(["a", "b"])
TEXTS = st.sampled_from(["one", "two", "\u4e09", "x" * 300])
SOME_LABELS = st.lists(st.sampled_from(["x", "y", "\xe9t\xe9"]), unique=True, max_size=2)
STEPS = st.lists(
    st.one_of(
        st.builds(SavePassword, TEXTS, NAMES),
        st.builds(SavePassword, TEXTS, NAMES, SOME_LABELS),
        st.builds(RestorePassword, NAMES, st.integers(1, 5)),
        st.builds(LabelUser, NAMES, SOME_LABELS),
        st.builds(DeleteUser, NAMES),
        st.sampled_from([KEY, NEXT_KEY]),
        st.none(),  # everything is sealed again
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def any_book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planner]:
    """Return one book for all histories, each of which begins by emptying it."""
    with Planner(tmp_path_factory.mktemp("any") / "user_data.db", KEPT) as planner:
        yield planner


@dataclass
class Kept:
    """A user as it should be."""

    labels: list[str] | None = None
    versions: dict[int, str] = field(default_factory=dict)

    def add(self, password: str) -> None:
        """Have one more version, and no more older ones than are kept."""
        number = max(self.versions, default=0) + 1
        self.versions[number] = password
        self.versions.pop(number - KEPT - 1, None)


def follow(model: dict[str, Kept], change: Change) -> bool:
    """Do in the model what is to be done in the book; return whether it can be done."""
    name = str(change.username)
    if isinstance(change, SavePassword):
        user = model.setdefault(name, Kept())
        user.add(change.password)
        if change.labels is not UNSET:
            user.labels = change.labels
    elif name not in model:
        return False
    elif isinstance(change, RestorePassword):
        if change.version not in model[name].versions:
            return False
        model[name].add(model[name].versions[change.version])
    elif isinstance(change, LabelUser):
        model[name].labels = change.labels
    else:
        del model[name]
    return True


def seal_all_anew(book: Planner) -> None:
    """Seal every row with the key that seals now, as a rotation does."""
    vault = book.context.vault
    for user in map(book.row, book.names()):
        again = rows.reseal(vault, user, user.labels)
        changed = (again.sealed, again.labels, again.older)
        operation = (LABEL, again.key_id, user.id, nonce(user.sealed), *changed)
        assert book.store.commit([], [operation]) == [DONE]
        assert book.row(str(user.username)).key_id == vault.key_id


def check(book: Planner, vault: Vault, model: dict[str, Kept]) -> None:
    """Check that the book holds what the model does, each row sealed with one key."""
    assert book.names() == sorted(model)
    for name, expected in model.items():
        user = book.row(name)
        assert passwords(vault, user) == expected.versions
        assert {user.key_id} == {user.key_id, *(each.key_id for each in history.unpack(user.older))}
        assert (None if user.labels is None else json.loads(user.labels)) == expected.labels


@settings(deadline=None, max_examples=100)
@given(STEPS)
def test_whatever_is_done_a_row_opens_and_has_one_key(
    any_book: Planner, steps: list[Change | MasterKey | None]
) -> None:
    """After any changes under two keys every version is right, and all of a row is of one key."""
    any_book.store.connection.execute("DELETE FROM user")
    model: dict[str, Kept] = {}
    vault = Vault(BOTH_KEYS)
    for step in steps:
        if step is None:
            seal_all_anew(any_book)
        elif isinstance(step, MasterKey):
            any_book.seal_with(step)
        elif follow(model, step):
            any_book.do(step)
        else:
            with pytest.raises((UnknownUser, UnknownVersion)):
                any_book.do(step)
        check(any_book, vault, model)
