"""A book and a reader of it, for the tests of the store.

A test that is marked with `BOTH_ENGINES` gets a file of SQLite, and a database on a server.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver.ipc import Scoreboard
from tests.support.books import new_scoreboard, open_store
from workers.storage.sqlite.reading import BookReader, ReadingConnection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a database is to be made."""
    return tmp_path / "book" / "user_data.db"


@pytest.fixture
def store(path: Path, engine: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a new book, open: a `Store` of SQLite in a folder of its own, or a `ServerStore`."""
    if engine == "sqlite":
        path.parent.mkdir(exist_ok=True)
        opened: Any = open_store(path)
    else:
        server = request.getfixturevalue("postgres")
        from tests.support.postgres_host import ServerStore  # noqa: PLC0415 - needs psycopg

        opened = ServerStore(server.new_database())
    yield opened
    opened.close()


@pytest.fixture
def board() -> Scoreboard:
    """Return the scoreboard that tells which database is the writer's."""
    return new_scoreboard()


@pytest.fixture
def reader(path: Path, board: Scoreboard, engine: str, request: pytest.FixtureRequest) -> Any:
    """Return a reader of the book; that of a file, whether it is there or not."""
    if engine == "sqlite":
        return BookReader(board, ReadingConnection(path).connect)
    from tests.support.postgres_host import ServerReader  # noqa: PLC0415 - needs psycopg

    return ServerReader(request.getfixturevalue("store").host)
