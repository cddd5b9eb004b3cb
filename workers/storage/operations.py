"""What the workers ask of a store, and what it answers: plain data, the same for every store.

The workers send two kinds of work. Rows of users saved without a name depend on nothing, and many
are inserted together. Operations were planned from what a worker had read. An operation identifies
the row to change by the nonce of its sealed password, which no two rows ever share. If that row has
changed meanwhile, the operation changes nothing and its result is `STALE`; the worker reads and
plans again. So two clients that save the same name at once make two versions, although it is
their workers that seal.
"""

from typing import Any, NamedTuple

from peewee import SQL

from workers.book.vault import NONCE_BYTES

SAVE, LABEL, DELETE = range(3)
Operation = tuple[Any, ...]
"""A worker's request as plain data: a kind, the id of the key that it is sealed with or None, and:

SAVE    book, username or None, user id, nonce of the row that is replaced or None, version, sealed,
        saved_at_ms, labels (JSON) or None, older versions or None, request_id or None, fingerprint
        of the request, the most users that the book may have or 0
LABEL   user id, nonce of the row that is replaced, sealed, labels (JSON), older versions or None
DELETE  user id
"""

DONE = True
STALE = False
FULL = None
Result = bool | tuple[int, int, int] | None
"""The result of an operation: `DONE`; `STALE`, because the book had changed; `FULL`, because the
book has as many users as it may have; or, if it carried the `request_id` of an earlier one, what
that one made and its fingerprint: (user_id, version, fingerprint)."""

Answer = tuple[int, list[Result]] | str | None
"""What becomes of a batch: the number of users before it and the operations' results, or the reason
why nothing of it was done, or None: nobody knows."""

CheckValues = dict[int, bytes]
"""Values derived from the keys, by key id. They identify a key but do not reveal it."""

NONCE_SPAN = SQL("1"), SQL(str(NONCE_BYTES))
"""The start and length of the nonce in a sealed password, for SQL's `substr`."""

REMOVED = "removed"
"""The `may` of an application that was removed: no right has this name."""


class KeyRetired(Exception):
    """Something is sealed with a key that the book does not have, or no longer has."""


class Entry(NamedTuple):
    """A user in a listing."""

    name: str
    version: int
    saved_at_ms: int
    labels: list[str]


def nonce(sealed: bytes) -> bytes:
    """Return the nonce of a sealed password: it identifies one state of one row."""
    return sealed[:NONCE_BYTES]
