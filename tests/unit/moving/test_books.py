"""How a running service is asked to save many: again where it could not, slowly where it guesses.

The service is a function here, and time passes only when somebody sleeps.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest

from pwserver.client.commands import Call
from pwserver.client.results import Saved
from pwserver.client.sync import Client
from pwserver.errors import (
    Denied,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    Unavailable,
    VersionConflict,
)
from pwserver.moving import books
from pwserver.moving.books import BookOfService
from pwserver.moving.naming import Named

WANTED = [Named(line, f"user {line}", f"password {line}", ()) for line in range(1, 11)]
Answer = Callable[[str], Any]


class Clock:
    """A clock that goes on by what is slept."""

    def __init__(self) -> None:
        self.now = self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the module has."""
    clock = Clock()
    monkeypatch.setattr(books, "time", clock)
    return clock


class FakePipeline:
    """A pipeline that gets an answer for each name."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._names: list[str] = []

    def add(self, call: Call[Any]) -> None:
        self._names.append(call.username)

    def verify_password(self, username: str, password: str) -> None:
        self._names.append(username)

    def execute(self) -> list[Any]:
        return [self._answer(name) for name in self._names]


class FakeClient:
    """A client of a service that answers as a function does."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def pipeline(self) -> FakePipeline:
        return FakePipeline(self._answer)


def book_of(answer: Answer) -> BookOfService:
    """Return the book of such a service."""
    return BookOfService(cast("Client", FakeClient(answer)), patience_s=10.0)


def save(answer: Answer) -> list[Any]:
    """Save all in the book of such a service."""
    return book_of(answer).save([(each, 0) for each in WANTED])


@pytest.mark.parametrize("error", [NotSaved("Full."), Unavailable("Gone."), FateUnknown("Lost.")])
def test_what_could_not_be_done_is_asked_again(clock: Clock, error: Exception) -> None:
    """Until it is done; the results keep their order."""
    asked: dict[str, int] = {}

    def answer(name: str) -> Any:
        asked[name] = asked.get(name, 0) + 1
        return error if asked[name] < 3 and name > "user 4" else Saved(name, 1)

    assert save(answer) == [Saved(each.name, 1) for each in WANTED]
    assert set(asked.values()) == {1, 3}


def test_what_cannot_be_done_is_given_up_in_the_end(clock: Clock) -> None:
    """If nothing at all comes any further, the service's reason is raised."""
    with pytest.raises(NotSaved, match=r"Full\."):
        save(lambda name: NotSaved("Full."))
    assert 10 <= clock.slept < 12


def test_what_is_denied_is_not_asked_again(clock: Clock) -> None:
    """It is the same for all."""
    with pytest.raises(Denied):
        save(lambda name: Denied("No."))
    assert clock.slept == 0


@pytest.mark.parametrize("error", [VersionConflict("2.", 2), InvalidMessage("Bad.")])
def test_a_refusal_is_a_result(clock: Clock, error: Exception) -> None:
    """Of the one that was refused."""
    results = save(lambda name: error if name == "user 4" else Saved(name, 1))
    assert (results[3], clock.slept) == (error, 0)


def test_many_wrong_passwords_hold_up_nobody(clock: Clock) -> None:
    """At most 500 at once, and 50 a second: half of what the service allows."""
    many = [Named(line, f"user {line}", "x", ()) for line in range(1000)]
    book = book_of(lambda name: False)
    for _ in range(3):
        assert book.verify(many) == [False] * 1000
    assert clock.now >= (3000 - 500) / 50
    clock.slept = 0
    assert book_of(lambda name: True).verify(many) == [True] * 1000
    assert clock.slept == 0
