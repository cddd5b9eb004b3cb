"""A database and a reader of it, for the tests of the store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pwserver.ipc import Scoreboard
from tests.support.books import new_scoreboard, open_store
from workers.storage.sqlite.database import Store
from workers.storage.sqlite.reading import BookReader, ReadingConnection


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
    return BookReader(board, ReadingConnection(path).connect)
