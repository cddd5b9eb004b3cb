"""Tests that run against both kinds of stores: a file of SQLite, and a PostgreSQL server."""

import contextlib
from typing import Any

import pytest

from tests.support.books_wire import rows as rows_of_file
from tests.support.harness import Service

BOTH_ENGINES = pytest.mark.parametrize(
    "engine",
    ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
    indirect=True,
    scope="module",
)
"""Marks a test, or all tests of a file, to run once for each; the `engine` is that of `start`."""


def run_sql(service: Service, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run a statement as another program does, with %s for each parameter; return its rows."""
    if not service.url_of_database:
        return rows_of_file(service.database, statement.replace("%s", "?"), *parameters)
    import psycopg  # noqa: PLC0415 - not installed everywhere

    with contextlib.closing(psycopg.connect(service.url_of_database, autocommit=True)) as opened:
        cursor = opened.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []
