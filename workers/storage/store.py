"""What a store is: the interface between the service and where its book is kept.

A `Store` opens the book for those who use it: worker 1 gets a `Committer`, every worker a `Reader`,
and an administrator's command an `OpenBook`. What stands behind it, and all that is its own (files,
locks, errors, versions), is in a folder beside this file. `workers.storage.stores` chooses it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from peewee import Query

from pwserver.ipc import Scoreboard
from pwserver.tally import Tally
from workers.book.keyring import Keyring
from workers.book.models import ApplicationRow, Row, UserRow
from workers.storage.answers import Pending
from workers.storage.operations import Answer, CheckValues, Entry, Operation

Page = list[tuple[Any, ...]]
"""Rows of a query, in the order of their ids."""

Misplaced = Callable[[tuple[Any, ...], int], None]
"""Called with a row that is out of order, and with the id before it."""


class Link(Protocol):
    """A connection to a server, for the loop of a process that must not wait for it."""

    def fileno(self) -> int:
        """Return the descriptor to wait for; it stays the same."""

    def work(self) -> None:
        """Receive and send what can be. Call it if the descriptor can be read, and once a tick."""


class Work(Protocol):
    """What is committed together for one worker."""

    @property
    def since(self) -> float:
        """When it was asked for, in seconds of the monotonic clock."""

    @property
    def rows(self) -> list[Row]:
        """The users without a name."""

    @property
    def operations(self) -> list[Operation]:
        """The operations, which are done after the rows."""

    def answer(self, answer: Answer) -> None:
        """Take the outcome."""


class Committer(Protocol):
    """The one writer of a host. Raises `StorageFailed` when nothing can be trusted any more.

    A commit makes work durable, publishes the new number of users, and only then answers: in the
    call, or later, while a `link` works.
    """

    @property
    def links(self) -> Sequence[Link]:
        """The connections that the loop is to wait for."""

    @property
    def takes_work(self) -> bool:
        """Whether `commit` may be called now; if not, the work waits."""

    tally: Tally
    """Where it counts its commits, and those that failed."""

    @property
    def more_to_do(self) -> bool:
        """Whether `rest` should be called again soon, even if there is nothing to commit."""

    def commit(self, work: Sequence[Work]) -> None:
        """Make all work durable as one transaction, and answer each."""

    def rest(self, *, idle: bool) -> None:
        """Do what is due after the replies of a turn; `idle`: the turn had nothing to commit."""

    def tick(self, *, idle: bool) -> None:
        """Look, once a tick, for what no commit has noticed."""

    def newest_id(self) -> int | None:
        """Return the greatest id, or 0; None if it is not known yet."""

    def know_keys(self, keys: Sequence[int]) -> None:
        """Let the other hosts know which keys this host has, if there may be others."""

    def close(self) -> None:
        """Close it; what is committed stays."""


class Reader(Protocol):
    """A worker's view of the committed book.

    Each question returns its answer, or a `Pending` if the answer comes later. If the book cannot
    be read, the question raises `Unavailable`, or the answer fails with it.
    """

    @property
    def links(self) -> Sequence[Link]:
        """The connections that the loop is to wait for."""

    def serial(self, number: int) -> int | Pending:
        """Return what tells a worker from all others of the book; `number`, from this host's."""

    def find(self, book: int, name: str) -> UserRow | Pending | None:
        """Return the user that has a name, or None."""

    def find_or_decoy(self, book: int, name: str) -> tuple[UserRow | None, bool] | Pending:
        """Return the user that has a name and True, or some other user and False.

        Both take the same time.
        """

    def find_by_id(self, user_id: int) -> UserRow | Pending | None:
        """Return the user that has an id, or None."""

    def earlier(self, book: int, request_id: str) -> tuple[int, int, int] | Pending | None:
        """Return (user_id, version, fingerprint) of a remembered request, or None."""

    def page(
        self, book: int, after: str, prefix: str, label: str | None, limit: int
    ) -> tuple[list[Entry], str | None] | Pending:
        """Return users in the order of their names, and the `after` of the next page."""

    def applications(self) -> list[ApplicationRow] | Pending:
        """Return the rows of all applications, unverified."""

    def sealing_key(self) -> int | Pending:
        """Return the number of the key to seal with."""


class OpenBook(Protocol):
    """A book that is open for an administrator's command, through the models too."""

    @property
    def user_columns(self) -> Sequence[Any]:
        """What to select for `stored_user`."""

    def changing(self) -> AbstractContextManager[None]:
        """Begin a transaction that keeps other writers away, and commit it at the end."""

    def applications(self) -> list[ApplicationRow]:
        """Return all applications, tombstones too, in the order in which they were added."""

    def sealing_key(self) -> int:
        """Return the number of the key to seal with; raise `Unavailable` if none is chosen."""

    def pages(
        self, query: Query, *parameters: int, at_a_time: int, misplaced: Misplaced = ...
    ) -> Iterator[Page]:
        """Yield the rows of a query some at a time, with no transaction open in between.

        The query selects the id first and orders by it; its first parameter is the id that the rows
        come after. A row out of order goes to `misplaced`, which raises `DatabaseRefused` if not
        given. Raises peewee's `DatabaseError` if no more can be read.
        """

    def change_rows(self, query: Query, parameters: Sequence[Sequence[Any]]) -> float:
        """Run a query with each of the parameters in one transaction.

        Returns for how many seconds it waited for its turn.
        """

    def hosts_lacking(self, key_id: int) -> list[str]:
        """Return the hosts of running services that lack a key; none, if there is one host."""

    def damages(self) -> Iterator[str]:
        """Yield a sentence about each damage that the store itself finds."""


class Store(Protocol):
    """Where a book is kept. Those who open it raise a `StoreError` that says what to do."""

    @property
    def parts(self) -> dict[str, str]:
        """The versions of its parts, for `status`."""

    # --- The service. ---

    def committer(
        self,
        keys: CheckValues,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        reserve_bytes: int,
        patience_s: float,
    ) -> Committer:
        """Open the book for the worker that writes.

        `patience_s` is how long work may wait for a server.
        """

    def reader(self, scoreboard: Scoreboard, committer: Committer | None) -> Reader:
        """Return a worker's reader; the worker that writes has a `committer`."""

    def pages_of_users(
        self, newest: int | None, size: int
    ) -> Iterator[list[tuple[int, str | None, int]]]:
        """Yield (id, username or None, saved_at_ms) of all users or the `newest`, oldest first.

        Waits for nobody between pages. If the book cannot be read now, there are no pages.
        """

    # --- Before it is used. ---

    def holds_a_book(self) -> bool:
        """Tell whether there is a book, or a part of one, so that a key for it must exist."""

    def require_a_book(self) -> None:
        """Raise `DatabaseRefused` if there is no book yet."""

    def check_can_be_made(self) -> None:
        """Raise a `StoreError` if no book can be there. Call it before making a key."""

    def check_is_a_book(self) -> None:
        """Raise `DatabaseRefused` for what is no password book, without knowing the key."""

    def check(self, keyring: Keyring) -> None:
        """Open a book as the service would, and make it if there is none; raise what is wrong."""

    # --- Administration. ---

    def is_in_use(self) -> bool:
        """Tell whether a service has the book open."""

    def administered(self, keyring: Keyring) -> AbstractContextManager[OpenBook]:
        """Open a book to change it, while a service may be using it."""

    def examined(self, keyring: Keyring) -> AbstractContextManager[OpenBook]:
        """Open a book to read it, and change nothing."""

    def delete_removed(self, keyring: Keyring) -> None:
        """Delete all users of removed books, unless a service has the book open, which does so."""
