"""The backups in a folder: which they are, when they were made, and which are too many."""

from pathlib import Path

import pytest

from pwserver.errors import ConfigError, DatabaseRefused, KeyRefused, StorageFailed
from workers.storage.backup_files import (
    FAILURES,
    FOLDER_REFUSED,
    KEYS_WRONG,
    KILLED,
    NO_ROOM,
    NOT_IN_ORDER,
    backups_of,
    name_of,
    number_of,
    remove_oldest,
    time_ms,
)

DATABASE = Path("any/user_data.db")


def test_a_name_says_when_the_backup_was_made() -> None:
    """To the second, in UTC."""
    name = name_of(DATABASE, 1_770_000_000.9)
    assert name == "user_data-20260202T024000Z.db"
    assert time_ms(Path(name)) == 1_770_000_000_000


def test_only_backups_of_the_database_count(tmp_path: Path) -> None:
    """Neither another database's, nor unfinished ones, nor what somebody has put there."""
    names = [name_of(DATABASE, 1_770_000_000 + second) for second in (2, 0, 1)]
    for other in (
        *("user_data.db", "user_data-new.db.part", "user_data-new.db.unverified"),
        *("other-20260202T024000Z.db", "user_data-20260202T024000Z.db.gz", "user_data-today.db"),
    ):
        (tmp_path / other).touch()
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in backups_of(DATABASE, tmp_path)] == sorted(names)
    assert time_ms(Path("user_data-20261399T024000Z.db")) == 0


@pytest.mark.parametrize(("keep", "left"), [(0, 5), (1, 1), (3, 3), (7, 5)])
def test_the_oldest_are_removed(tmp_path: Path, keep: int, left: int) -> None:
    """All but the newest; with 0 none."""
    names = [name_of(DATABASE, 1_770_000_000 + second) for second in range(5)]
    for name in names:
        (tmp_path / name).touch()
    removed = remove_oldest(DATABASE, tmp_path, keep)
    assert [path.name for path in removed] == names[: 5 - left]
    assert [path.name for path in backups_of(DATABASE, tmp_path)] == names[5 - left :]


def test_every_failure_has_a_number() -> None:
    """By its kind, so that the scoreboard can hold it; 0 is none."""
    kinds = {
        StorageFailed("x"): NO_ROOM,
        KeyRefused("x"): KEYS_WRONG,
        DatabaseRefused("x"): NOT_IN_ORDER,
        ConfigError("x"): FOLDER_REFUSED,
        PermissionError("x"): FOLDER_REFUSED,
    }
    for error, words in kinds.items():
        assert FAILURES[number_of(error)] == words
    assert FAILURES[number_of(KILLED)] == KILLED
    assert not FAILURES[0]
