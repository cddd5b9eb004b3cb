"""Reads the book in PostgreSQL: every question is one round trip, and its answer comes later.

If there is no connection, a question raises `Unavailable` at once; if it is lost, the answers that
are awaited fail with it.

Where commits wait for standbys, a primary that is cut off from them goes on answering reads, while
another one has taken its place. So an answer counts only if this host's writer has committed
something on the same server within the last second, which a primary that is cut off cannot do.

The applications are read once and then only if an administrator has changed something, which
raises the `generation`.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import msgspec
from psycopg.pq.abc import PGresult

from pwserver.errors import ServerAway, Unavailable
from pwserver.ipc import Scoreboard
from pwserver.limits import PAGE_BYTES_MAX, PAGE_ROWS_MAX
from workers.book.models import COMMON_BOOK, ApplicationRow, UserRow, has_name
from workers.book.names import GENERATED_PREFIX, first_generated_id, generated_id, generated_name
from workers.storage.answers import Pending, Steps, finish
from workers.storage.operations import Entry
from workers.storage.outage import SERVER_AWAY
from workers.storage.postgres.arrays import bigint, integer
from workers.storage.postgres.link import Group, Link, Parameters

_ENTRY_BYTES = 128
"""The approximate size of a user in a reply besides its name and labels."""

_STALE_S = 1.0
"""How old the writer's last commit may be for an answer to count."""

_NOT_SURE = "The database server may be cut off from its standbys, so what it says may be old."

_USER = ", ".join(UserRow._fields)
_LISTED = "version, saved_at_ms, labels"
_BELONGS = f"book = {COMMON_BOOK} AND username IS NULL"

READING = {
    "name": f'SELECT {_USER} FROM "user" WHERE book = $1::int AND username = $2::text',
    "generated": f"""SELECT {_USER} FROM "user"
        WHERE book = $1::int AND id = $2::bigint AND username IS NULL""",
    # One query for both kinds of names: the same steps for a user that is there and for none.
    "decoy": f"""WITH at AS (SELECT coalesce($3::bigint, (SELECT id FROM "user"
            WHERE book = $1::int AND username >= $2::text ORDER BY username LIMIT 1), 0) AS id)
        SELECT {_USER} FROM "user" WHERE id >= (SELECT id FROM at) ORDER BY id LIMIT 1""",
    "id": f'SELECT {_USER} FROM "user" WHERE id = $1::bigint',
    "request": """SELECT user_id, version, fingerprint FROM request
        WHERE book = $1::int AND request_id = $2::bytea""",
    "server": "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint",
    "serial": "SELECT nextval('worker_serial')",
    "generation": "SELECT generation FROM pwserver",
    "applications": f"SELECT {', '.join(ApplicationRow._fields)} FROM application ORDER BY id",
    "sealing": "SELECT id FROM key WHERE seals ORDER BY id DESC LIMIT 1",
    "chosen_page": f"""SELECT username, {_LISTED} FROM "user"
        WHERE book = $1::int AND username >= $2::text ORDER BY username LIMIT $3::bigint""",
    "generated_page": f"""SELECT id, true, {_LISTED} FROM "user"
        WHERE book = $1::int AND book <> {COMMON_BOOK} AND username IS NULL AND id >= $2::bigint
        ORDER BY id LIMIT $3::bigint""",
    # No index has the users of the common book, so rows of others are passed over, and count.
    "common_page": f"""SELECT id, {_BELONGS}, version, saved_at_ms,
          CASE WHEN {_BELONGS} THEN labels END FROM "user"
        WHERE id >= $1::bigint ORDER BY id LIMIT $2::bigint""",
}

_decode_labels = msgspec.json.Decoder(list[str]).decode


def _int(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


_READ: dict[int, Callable[[bytes], Any]] = {
    17: bytes,
    20: _int,
    23: _int,
    25: bytes.decode,
    16: lambda value: value == b"\x01",
}
"""How a value is read, by the object id of its type."""


def rows_of(result: PGresult) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a result in binary format."""
    columns = [_READ[result.ftype(column)] for column in range(result.nfields)]
    for row in range(result.ntuples):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        yield tuple(
            None if value is None else read(value)
            for read, value in zip(columns, values, strict=True)
        )


class PostgresReader:
    """A worker's view of the committed book."""

    def __init__(self, conninfo: str, scoreboard: Scoreboard) -> None:
        self.link = Link(conninfo, READING, self._on_connected, self._on_lost)
        self.links = (self.link,)
        self._scoreboard = scoreboard
        self._server = 0  # the one that is connected, as a number; 0: none, or it is not known yet
        self._generation = 0  # of `_applications`
        self._applications: list[ApplicationRow] = []

    @property
    def ready(self) -> bool:
        """Whether questions can be asked."""
        return bool(self._server)

    def find(self, book: int, name: str) -> Pending:
        """Return the user that has a name, or None."""
        user_id = generated_id(name)
        if user_id is None:
            return self._ask("name", (integer(book), name.encode()), _user)
        return self._ask("generated", (integer(book), bigint(user_id)), _user)

    def find_or_decoy(self, book: int, name: str) -> Pending:
        """Return the user that has a name and True, or some other user and False."""
        user_id = generated_id(name)
        asked = None if user_id is None else bigint(user_id)

        def found(result: PGresult) -> tuple[UserRow | None, bool]:
            user = _user(result)
            return user, user is not None and has_name(user, book, name, user_id)

        return self._ask("decoy", (integer(book), name.encode(), asked), found)

    def find_by_id(self, user_id: int) -> Pending:
        """Return the user that has an id, or None."""
        return self._ask("id", (bigint(user_id),), _user)

    def earlier(self, book: int, request_id: str) -> Pending:
        """Return (user_id, version, fingerprint) of a remembered request, or None."""
        return self._ask("request", (integer(book), request_id.encode()), _first)

    def serial(self, number: int) -> Pending:
        """Return a number that no other worker of any host has."""
        return self._ask("serial", (), _whole)

    def applications(self) -> Pending:
        """Return the rows of all applications, unverified."""
        asked = finish(self._all_applications())
        assert isinstance(asked, Pending)
        return asked

    def _all_applications(self) -> Steps[list[ApplicationRow]]:
        generation = yield self._ask("generation", (), _whole)
        if generation != self._generation:
            self._applications = yield self._ask("applications", (), _application_rows)
            self._generation = generation
        return self._applications

    def sealing_key(self) -> Pending:
        """Return the number of the key to seal with."""
        return self._ask("sealing", (), _sealing)

    def page(self, book: int, after: str, prefix: str, label: str | None, limit: int) -> Pending:
        """Return users in the order of their names, and the `after` of the next page.

        A page ends early after `PAGE_ROWS_MAX` rows or `PAGE_BYTES_MAX` bytes.
        """
        first = max(after, prefix)
        most = PAGE_ROWS_MAX + 2 if label is not None else min(limit, PAGE_ROWS_MAX) + 2
        statements: list[tuple[str, Parameters]] = [
            ("chosen_page", (integer(book), first.encode(), bigint(most))),
        ]
        if prefix.startswith(GENERATED_PREFIX) or GENERATED_PREFIX.startswith(prefix):
            first_id = bigint(first_generated_id(first))
            if book == COMMON_BOOK:
                statements.append(("common_page", (first_id, bigint(PAGE_ROWS_MAX + 2))))
            else:
                statements.append(("generated_page", (integer(book), first_id, bigint(most))))

        def page(results: list[PGresult]) -> tuple[list[Entry], str | None]:
            streams = [*map(_chosen, results[:1]), *map(_generated, results[1:])]
            names = heapq.merge(*streams, key=itemgetter(0))
            return _page(names, after, prefix, label, limit)

        return self._send(statements, page)

    # --- The connection. ---

    def _ask(self, name: str, parameters: Parameters, made: Callable[[PGresult], Any]) -> Pending:
        return self._send([(name, parameters)], lambda results: made(results[0]))

    def _send(
        self,
        statements: list[tuple[str, Parameters]],
        made: Callable[[list[PGresult]], Any],
    ) -> Pending:
        if not self.ready:
            raise ServerAway(SERVER_AWAY)
        pending = Pending()

        def answered(group: Group) -> None:
            if group.error is not None:
                why = str(group.error).rstrip(".")
                pending.fail(ServerAway(f"The database cannot be read now: {why}."))
                return
            if not self._is_newest():
                pending.fail(ServerAway(_NOT_SURE))
                return
            try:
                value = made(group.results)
            except Exception as error:
                pending.fail(error)
            else:
                pending.resolve(value)

        self.link.send(statements, answered)
        return pending

    def _on_connected(self) -> None:
        self.link.send([("server", ())], self._on_server)

    def _on_server(self, group: Group) -> None:
        if group.error is None:
            self._server = _whole(group.results[0])

    def _on_lost(self, why: str) -> None:
        self._server = 0

    def _is_newest(self) -> bool:
        """Tell whether what this server has just answered is what was committed last."""
        newest = self._scoreboard.database_server
        if not newest:
            return True
        age_s = time.monotonic() - self._scoreboard.committed_ms / 1000
        if newest != self._server and age_s < _STALE_S:
            self.link.lose("the writer has its connection to another server")
            return False
        return age_s < _STALE_S


def _whole(result: PGresult) -> int:
    ((number,),) = rows_of(result)
    return int(number)


def _application_rows(result: PGresult) -> list[ApplicationRow]:
    return [ApplicationRow(*row) for row in rows_of(result)]


def _first(result: PGresult) -> tuple[Any, ...] | None:
    return next(rows_of(result), None)


def _user(result: PGresult) -> UserRow | None:
    row = _first(result)
    return None if row is None else UserRow(*row)


def _sealing(result: PGresult) -> int:
    row = _first(result)
    if row is None:
        raise Unavailable("The database does not say which key to seal with.")
    return int(row[0])


def _chosen(result: PGresult) -> Iterator[tuple[str, Entry]]:
    for name, version, saved_at_ms, labels in rows_of(result):
        yield name, Entry(name, version, saved_at_ms, _labels(labels))


def _generated(result: PGresult) -> Iterator[tuple[str, Entry | None]]:
    for user_id, belongs, version, saved_at_ms, labels in rows_of(result):
        name = generated_name(user_id)
        entry = Entry(name, version, saved_at_ms, _labels(labels))
        yield name, entry if belongs else None


def _labels(labels: str | None) -> list[str]:
    return [] if labels is None else _decode_labels(labels)


def _page(
    names: Iterator[tuple[str, Entry | None]],
    after: str,
    prefix: str,
    label: str | None,
    limit: int,
) -> tuple[list[Entry], str | None]:
    users: list[Entry] = []
    size = looked_at = 0
    last = after
    for name, entry in names:
        if name == after:
            continue
        if not name.startswith(prefix):
            break
        if len(users) == limit or size > PAGE_BYTES_MAX or looked_at == PAGE_ROWS_MAX:
            return users, last
        looked_at += 1
        last = name
        if entry is None:
            continue
        its_labels = sum([len(each.encode()) for each in entry.labels])
        size += its_labels
        if label is None or label in entry.labels:
            users.append(entry)
            size += _ENTRY_BYTES + len(name.encode())
    return users, None
