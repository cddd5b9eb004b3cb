"""Holds the database against what was acknowledged; to be done while nothing is under way.

The database is read as it is, without the service, over a connection to the primary; then each
host is asked how many users there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import psycopg

from pwserver import Client
from tests.trials.failover.cluster import BOOK, Cluster
from tests.trials.failover.hosts import Host
from tests.trials.torture.inspection import Findings, look
from tests.trials.torture.ledger import Ledger
from workers.book.models import UserRow

HEARD_S = 1.0
"""How soon a host knows what other hosts have saved."""

_FETCHED = 1000
_PAUSE_S = 0.05


class PostgresBook:
    """A book in PostgreSQL, over a connection in one transaction."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def damage(self) -> Iterator[str]:
        """Yield where the number that hosts keep is not that of the rows."""
        rows, known = self.number_of_users(), self._number("SELECT sum(users) FROM writer")
        if rows != known:
            yield f"the hosts' rows say {known} users, and there are {rows}"

    def number_of_users(self) -> int:
        """Count the rows."""
        return self._number('SELECT count(*) FROM "user"')

    def books(self) -> dict[str, int]:
        """Return the number of the book of each application, by its name."""
        return dict(self._connection.execute("SELECT name, book FROM application").fetchall())

    def users(self, *, named: bool, after: int = -1) -> Iterator[UserRow]:
        """Yield users with or without names, in the order of their ids, those beyond one."""
        kind = "IS NOT NULL" if named else "IS NULL"
        query = (
            f'SELECT {", ".join(UserRow._fields)} FROM "user" '
            f"WHERE username {kind} AND id > %s ORDER BY id"
        )
        with self._connection.cursor(name="users") as cursor:
            cursor.itersize = _FETCHED
            for row in cursor.execute(query, (after,)):
                yield UserRow(*row)

    def _number(self, query: str) -> int:
        row = self._connection.execute(query).fetchone()
        return int(row[0] or 0) if row else 0


def look_at(
    cluster: Cluster, hosts: Sequence[Host], ledger: Ledger, books: dict[str, str], *, whole: bool
) -> Findings:
    """Return what is wrong with the book, and settle the ledger."""
    with psycopg.connect(cluster.conninfo(BOOK)) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        findings = look(PostgresBook(connection), hosts[0].key_file, ledger, books, whole=whole)
    for host in hosts:
        counted = _counted(host, findings.users)
        if counted != findings.users:
            text = f"{host.name} counts {counted} users, and there are {findings.users}"
            findings.add("mismatch", text)
    return findings


def _counted(host: Host, expected: int) -> int:
    """Return how many users a host counts, once it has had the time to hear of other hosts'."""
    deadline = time.monotonic() + HEARD_S
    with Client(host.url()) as client:
        while (counted := client.number_of_users()) != expected and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
    return counted
