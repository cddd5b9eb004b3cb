"""Walks through a damaged book: each ends, and says what is wrong.

The damage is what disks and people do: a page in another's place, no page, half a file, a circle.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused, Unavailable
from tests.support.books import KEYRING, make_book, new_scoreboard, users
from workers.admin.check import Examination
from workers.book.keyring import replace_keyring
from workers.book.models import COMMON_BOOK
from workers.storage.sqlite.reading import BookReader, ReadingConnection, pages_of_users
from workers.storage.sqlite.walk import in_order

PAGE_BYTES = 4096
USERS = 3000
BOUND_S = 60
"""Far more than any walk takes here, and far less than for ever."""

LEAF, INTERIOR = (
    0x0D,
    0x05,
)  # the first byte of a table's pages (https://sqlite.org/fileformat.html)

Pages = list[bytes]


def leaves(pages: Pages) -> list[int]:
    """Return which pages hold users."""
    return [at for at, page in enumerate(pages) if at and page[0] == LEAF and page[4] > 20]


def repeated(pages: Pages) -> None:
    """Put the first half of the users in the place of the second."""
    found = leaves(pages)
    half = len(found) // 2
    for at in range(half):
        pages[found[half + at]] = pages[found[at]]


def zeroed(pages: Pages) -> None:
    """Leave nothing of a page in the middle."""
    found = leaves(pages)
    pages[found[len(found) // 2]] = bytes(PAGE_BYTES)


def truncated(pages: Pages) -> None:
    """Leave half of the file."""
    del pages[len(pages) // 2 :]


def circular(pages: Pages) -> None:
    """Have the table's root lead to itself, by its last child."""
    (root,) = (at for at, page in enumerate(pages) if page[0] == INTERIOR)
    pages[root] = pages[root][:8] + (root + 1).to_bytes(4, "big") + pages[root][12:]


DAMAGE = [repeated, zeroed, truncated, circular]


@pytest.fixture(params=DAMAGE)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the path of a book that is damaged in one of these ways."""
    path = tmp_path / "user_data.db"
    make_book(path, users(*range(1, USERS + 1)))
    data = path.read_bytes()
    pages = [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
    request.param(pages)
    path.write_bytes(b"".join(pages))
    return path


def ends(walk: Callable[[], object]) -> None:
    """Make sure that something ends in time, one way or the other."""
    thread = threading.Thread(target=walk, daemon=True)
    thread.start()
    thread.join(BOUND_S)
    assert not thread.is_alive(), "it goes on and on"


def test_a_check_ends_and_says_what_is_wrong(damaged: Path) -> None:
    """Which pages SQLite finds, which rows are out of order, and how far the users can be read."""
    settings = StoreSettings(database=str(damaged))
    settings.key_path.touch(0o600)
    replace_keyring(settings.key_path, KEYRING)
    findings: list[str] = []

    def check() -> None:
        examination = Examination(settings, at_rest=True)
        try:
            findings.extend(examination.findings(lambda done, total: None))
        except DatabaseRefused as error:
            findings.append(str(error))

    ends(check)
    assert any("damaged" in each or "malformed" in each for each in findings), findings


def test_the_console_ends(damaged: Path) -> None:
    """No user is listed twice, so a listing is never without end."""
    listed: list[int] = []

    def walk() -> None:
        for page in pages_of_users(damaged, None, 100):
            listed.extend(user_id for user_id, *_ in page)

    ends(walk)
    assert len(listed) == len(set(listed)) <= USERS


def test_pages_of_users_end(damaged: Path) -> None:
    """A client that asks for page after page is told of the damage in the end."""
    asked: list[str] = []

    def walk() -> None:
        reader = BookReader(new_scoreboard(), ReadingConnection(damaged).connect)
        after: str | None = ""
        try:
            while after is not None:
                _, after = reader.page(COMMON_BOOK, after, "", None, 100)
                asked.append(after or "the end")
        except Unavailable:
            asked.append("damage")

    ends(walk)
    assert asked[-1] == "damage"
    assert len(asked) < USERS


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[apsw.Connection]:
    """Return a table of seven rows, in memory."""
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t (id INTEGER, position INTEGER)")
    for position, id in enumerate((1, 2, 5, 3, 4, 6, 7)):
        connection.execute("INSERT INTO t VALUES (?, ?)", (id, position))
    yield connection
    connection.close()


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 10])
def test_a_row_out_of_order_is_told_and_passed_over(rows: apsw.Connection, at_a_time: int) -> None:
    """What comes after it is still read, each row once."""
    told: list[tuple[int, int]] = []
    select = "SELECT id FROM t WHERE id > ? ORDER BY position"
    pages = in_order(
        rows, select, at_a_time=at_a_time, misplaced=lambda row, last: told.append((row[0], last))
    )
    assert [id for (id,) in itertools.chain.from_iterable(pages)] == [1, 2, 5, 6, 7]
    assert set(told) <= {(3, 5), (4, 5)}


def test_who_changes_rows_stops_at_the_damage(rows: apsw.Connection) -> None:
    """A rotation makes nothing worse; it says what to run."""
    select = "SELECT id FROM t WHERE id > ? ORDER BY position"
    with pytest.raises(DatabaseRefused, match="row 3 stands after row 5"):
        list(in_order(rows, select, at_a_time=10))
