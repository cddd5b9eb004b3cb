"""A rotation over rows that were tampered with: it reports them, and is not held up by any."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.config import StoreSettings
from pwserver.errors import AdministrationRefused, DatabaseRefused
from pwserver.wire.messages import SavePassword
from tests.support.books import BOTH_KEYS, KEY, NEXT_KEY
from tests.support.planning import Planner
from workers.admin.administration import Administration, administration
from workers.admin.rotation import retire, rotate
from workers.book import rows
from workers.book.keyring import Keyring, create_keyring, replace_keyring
from workers.book.models import STORED_USER, User, UserRow, sql, stored_user
from workers.book.vault import Vault

NAMES = [f"user {number}" for number in range(200)]  # more than are done at a time
ODD = "user 7"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a book that one key has sealed, and whose key file has two."""
    made = tmp_path_factory.mktemp("made") / "user_data.db"
    with Planner(made) as planner:
        planner.do(*(SavePassword(f"{name} {n}", name) for n in (1, 2) for name in NAMES))
        planner.store.connection.execute("DELETE FROM key WHERE id = ?", (NEXT_KEY.id,))
        assert planner.store.checkpoint()
    create_keyring(made.with_suffix(".key"))
    replace_keyring(made.with_suffix(".key"), BOTH_KEYS)
    return made


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it, for one test."""
    for suffix in (".db", ".key"):
        shutil.copy(made.with_suffix(suffix), tmp_path)
    return tmp_path / made.name


@pytest.fixture
def administered(path: Path) -> Iterator[Administration]:
    """Return it in the hands of an administrator."""
    with administration(StoreSettings(database=str(path))) as opened:
        yield opened


def all_rows(path: Path) -> list[UserRow]:
    """Return every row, the damaged ones too."""
    connection = apsw.Connection(str(path))
    found = [stored_user(row) for row in connection.execute(sql(User.select(*STORED_USER)))]
    connection.close()
    return found


DAMAGE = [
    "sealed = zeroblob(60)",
    "sealed = 'a text'",
    "older = substr(older, 1, 30)",
    "labels = '[]'",
    "username = CAST(x'75ff' AS TEXT)",
    "labels = CAST(x'ff' AS TEXT)",
    "version = -1",
    "id = -8",
    "id = -9223372036854775807",
    "key_id = 9",
]


def opens(keyring: Keyring, user: UserRow) -> bool:
    """Tell whether both versions of a row open, as they were saved."""
    vault = Vault(keyring)
    try:
        versions = [rows.open_version(vault, user, version) for version in (1, 2)]
    except DatabaseRefused:
        return False
    assert [each and each[0] for each in versions] == [f"{user.username} {n}" for n in (1, 2)]
    return True


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_row_that_does_not_open_is_left_as_it_is(
    path: Path, administered: Administration, damage: str
) -> None:
    """It is reported by its id, and all others are sealed with the new key alone."""
    connection = apsw.Connection(str(path))
    connection.execute(f"UPDATE user SET {damage} WHERE username = ?", (ODD,))
    connection.close()
    (odd,) = [user for user in all_rows(path) if not opens(BOTH_KEYS, user)]
    told: list[tuple[int, int]] = []
    for _ in range(2):  # to run it again changes nothing
        refused = rotate(
            administered, lambda *progress: told.append(progress), beside_service=False
        )
        assert refused == [odd.id]
        after = all_rows(path)
        assert [user for user in after if not opens(BOTH_KEYS.without(KEY.id), user)] == [odd]
    assert (told[0], told[-1]) == ((0, len(NAMES)), (0, 1))
    if odd.key_id == KEY.id:
        with pytest.raises(AdministrationRefused, match="sealed with key 1 yet"):
            retire(administered, KEY.id)
