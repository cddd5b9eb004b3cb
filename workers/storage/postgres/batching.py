"""A batch as statements of one transaction. Knows nothing of connections and outcomes.

Operations are sorted, so that two hosts that change the same users wait for each other and do not
deadlock.
"""

from collections.abc import Sequence
from typing import Any

from workers.book.models import Row
from workers.storage.operations import LABEL, SAVE, Operation
from workers.storage.postgres.arrays import bigint, bigints, byteas, integer, integers
from workers.storage.postgres.link import Parameters

_REQUEST_ID = 11  # its place in a save

Statements = list[tuple[str, Parameters]]


def ordered(operations: Sequence[Operation]) -> list[int]:
    """Return the places of operations in the order in which they are done.

    First those on rows that are there, by their ids; then new ones, by their names. Those that have
    a `request_id` in common stay in their order, because only the first of them counts.
    """
    keys: list[tuple[Any, ...]] = []
    firsts: dict[tuple[int, str], tuple[Any, ...]] = {}
    for operation in operations:
        key = _order(operation)
        if operation[0] == SAVE and (request_id := operation[_REQUEST_ID]) is not None:
            key = firsts.setdefault((operation[2], request_id), key)
        keys.append(key)
    return sorted(range(len(operations)), key=keys.__getitem__)


def _order(operation: Operation) -> tuple[Any, ...]:
    if operation[0] != SAVE:
        return 0, operation[2], "", 0
    _, _, book, username, user_id, replaced, *_ = operation
    return (1, book, username or "", user_id) if replaced is None else (0, user_id, "", 0)


class Batching:
    """Makes the statements of one writer. `kept_ms` is how long a `request_id` is remembered."""

    def __init__(self, kept_ms: int) -> None:
        self._kept_ms = kept_ms

    def statements(
        self,
        writer_row: tuple[int, int, int],
        rows: list[Row],
        operations: Sequence[Operation],
        *,
        empties: bool,
        counts: bool,
    ) -> Statements:
        """Return the transaction of a batch; `writer_row` is the writer's id, its number and epoch.

        With `empties`, some users of removed books are deleted; with `counts`, all are counted.
        """
        writer_id, number, epoch = writer_row
        writer = integer(writer_id)
        rows = sorted(rows)
        keys = {row[2] for row in rows} | {each[1] for each in operations if each[1] is not None}
        statements: Statements = [
            ("begin", ()),
            ("lock", ()),
            ("batch", (writer, bigint(number), bigint(epoch))),
        ]
        if keys:
            statements.append(("keys", (integers(sorted(keys)),)))
        if rows:
            statements.append(("rows", (writer, *_columns(rows))))
        for operation in operations:
            statements += self._statements_of(operation, writer)
        if empties:
            statements.append(("empty", (writer,)))
        if counts:
            statements.append(("total", ()))
        statements += [("outcome", (writer,)), ("commit", ())]
        return statements

    def _statements_of(self, operation: Operation, writer: bytes) -> Statements:
        if operation[0] == SAVE:
            return self._saving(operation, writer)
        if operation[0] == LABEL:
            _, key_id, user_id, replaced, sealed, labels, older = operation
            its_labels = None if labels is None else labels.encode()
            columns = (integer(key_id), sealed, its_labels, older)
            return [("label", (writer, *columns, bigint(user_id), replaced))]
        return [("delete", (writer, bigint(operation[2])))]

    def _saving(self, operation: Operation, writer: bytes) -> Statements:
        _, key_id, book, username, user_id, replaced, version, *values = operation
        sealed, saved_at_ms, labels, older, request_id, fingerprint, users_max = values
        request = None if request_id is None else request_id.encode()
        made = (bigint(user_id), integer(version), bigint(saved_at_ms))
        head = (writer, integer(book), request, bigint(fingerprint), *made, integer(key_id), sealed)
        its_labels = None if labels is None else labels.encode()
        statements: Statements = []
        if request is not None:
            oldest = bigint(saved_at_ms - self._kept_ms)
            newest = bigint(saved_at_ms + self._kept_ms)
            statements = [
                ("expire", (integer(book), request, oldest)),
                ("forget", (oldest, newest)),
            ]
        if replaced is None:
            name = None if username is None else username.encode()
            statements.append(("save", (*head, name, its_labels, bigint(users_max))))
        else:
            statements.append(("replace", (*head, its_labels, older, replaced)))
        return statements


def _columns(rows: list[Row]) -> tuple[bytes, ...]:
    ids, books, keys, sealed, times = zip(*rows, strict=True)
    return bigints(ids), integers(books), integers(keys), byteas(sealed), bigints(times)
