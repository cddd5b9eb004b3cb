"""The two ways to a book that passwords are moved into or out of, and the one through a service.

The other, `workers.admin.book_at_rest`, has the same methods and works on the files.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from pwserver.client import commands
from pwserver.client.pipeline import Pipeline
from pwserver.client.results import Password, Saved, User
from pwserver.client.retry import WINDOW
from pwserver.client.sync import Client
from pwserver.errors import (
    ConnectionFailed,
    Denied,
    NotSaved,
    PwserverError,
    Refused,
    Unavailable,
)
from pwserver.moving.naming import Named
from pwserver.wire.messages import PAGE_USERS_MAX

CHUNK = 8192
"""Passwords that are moved together; after them the report and the progress bar go on."""

_PIPELINES = 4
"""Pipelines at once, a window of requests each, so that the service has work while the client makes
and reads messages."""

_PAUSE_S = 0.2
"""Before something is asked again that could not be done."""

_WRONG_MAX, _WRONG_PER_S = 500, 50
"""Wrong passwords in a row, and a second after that: half of what the service allows before it
holds up other verifications of the application (`workers/auth/throttle.py`)."""

_T = TypeVar("_T")
_Error = type[PwserverError]


class Book(Protocol):
    """A book. Every method takes at most `CHUNK` passwords, each name once."""

    def save(self, wanted: Sequence[tuple[Named, int]]) -> list[Saved | Refused]:
        """Save each password if the number is that of its user's newest version.

        Otherwise the result is a `VersionConflict`.
        """

    def verify(self, wanted: Sequence[Named]) -> list[bool]:
        """Tell of each password whether it is its user's newest."""

    def users(self) -> Iterator[User]:
        """Yield all users in the order of their names."""

    def read(self, names: Sequence[str]) -> list[Password | Refused]:
        """Return the newest password of each user."""


class BookOfService:
    """The book of an application, through a running service and with its token.

    What the service could not do for the moment is asked again for `patience_s`; then the reason is
    raised. So is `Denied`.
    """

    def __init__(self, client: Client, patience_s: float) -> None:
        self._client = client
        self._patience_s = patience_s
        self._wrong, self._wrong_at = 0.0, time.monotonic()  # a bucket that leaks

    def save(self, wanted: Sequence[tuple[Named, int]]) -> list[Saved | Refused]:
        """Save passwords; see `Book`."""

        def add(pipeline: Pipeline, each: tuple[Named, int]) -> None:
            named, version = each
            labels = named.labels or None  # without any, those that the user has stay
            pipeline.add(commands.save_over(named.password, named.name, labels, version))

        return self._all(wanted, add, (ConnectionFailed, Unavailable, NotSaved))

    def verify(self, wanted: Sequence[Named]) -> list[bool]:
        """Verify passwords; see `Book`. Rests after many wrong ones."""

        def add(pipeline: Pipeline, each: Named) -> None:
            pipeline.verify_password(each.name, each.password)

        valid: list[bool] = []
        for at in range(0, len(wanted), _WRONG_MAX):
            self._rest()
            part = self._all(wanted[at : at + _WRONG_MAX], add, (ConnectionFailed, Unavailable))
            valid += [result is True for result in part]
            self._wrong += len(part) - sum(map(bool, valid[at:]))
        return valid

    def _rest(self) -> None:
        """Wait until another `_WRONG_MAX` wrong passwords hold nobody up."""
        now = time.monotonic()
        self._wrong = max(0.0, self._wrong - (now - self._wrong_at) * _WRONG_PER_S)
        time.sleep(self._wrong / _WRONG_PER_S)
        self._wrong, self._wrong_at = 0.0, time.monotonic()

    def users(self) -> Iterator[User]:
        """Yield all users; see `Book`."""
        after: str | None = ""
        while after is not None:
            page = self._client.list_users(after=after, limit=PAGE_USERS_MAX)
            yield from page.users
            after = page.after

    def read(self, names: Sequence[str]) -> list[Password | Refused]:
        """Read passwords; see `Book`."""
        return self._all(names, Pipeline.get_password, (ConnectionFailed,))

    def _all(
        self,
        wanted: Sequence[_T],
        add: Callable[[Pipeline, _T], object],
        again: tuple[_Error, ...],
    ) -> list[Any]:
        """Ask for all; ask again for those that end with the errors `again` and no subclass."""
        results: list[Any] = [None] * len(wanted)
        left = [*range(len(wanted))]
        until = time.monotonic() + self._patience_s
        while left:
            asked, left = left, []
            answers = self._ask([wanted[place] for place in asked], add)
            for place, result in zip(asked, answers, strict=True):
                if isinstance(result, Denied):
                    raise result
                results[place] = result
                if type(result) in again or isinstance(result, ConnectionFailed):
                    left.append(place)
            if len(left) < len(asked):
                until = time.monotonic() + self._patience_s
            elif time.monotonic() > until:
                raise results[left[0]]
            if left:
                time.sleep(_PAUSE_S)
        return results

    def _ask(self, wanted: Sequence[_T], add: Callable[[Pipeline, _T], object]) -> list[Any]:
        """Ask for all once, by several pipelines at once; return results and errors."""
        share = min(WINDOW, -(-len(wanted) // _PIPELINES))
        parts = [wanted[at : at + share] for at in range(0, len(wanted), share)]

        def run(part: Sequence[_T]) -> list[Any]:
            pipeline = self._client.pipeline()
            for each in part:
                add(pipeline, each)
            return pipeline.execute()

        with ThreadPoolExecutor(_PIPELINES) as threads:
            return [result for results in threads.map(run, parts) for result in results]
