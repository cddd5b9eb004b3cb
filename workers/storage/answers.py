"""Answers of a store that come at once, or later.

A command that reads is written once for both, as a generator (`Steps`): it yields what the store
has answered, and is given the answer. A store that answers at once returns the answer itself, or
raises, and `finish` goes on in the same call. Otherwise it returns a `Pending`, and the steps go
on when that is resolved.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

Steps = Generator[Any, Any, T]
"""Something that reads: it yields each answer, known or `Pending`, and is given the known one."""


class Pending:
    """A value that is not known yet. It is resolved once: with a value or with an error."""

    __slots__ = ("_then", "error", "resolved", "value")

    def __init__(self) -> None:
        self.resolved = False
        self.value: Any = None
        self.error: Exception | None = None
        self._then: Callable[[Pending], None] | None = None

    def then(self, call: Callable[["Pending"], None]) -> None:
        """Have this called, once it is resolved, with this object."""
        self._then = call

    def resolve(self, value: Any) -> None:
        """Set the value."""
        self.value = value
        self._call()

    def fail(self, error: Exception) -> None:
        """Set the reason why there is no value."""
        self.error = error
        self._call()

    def _call(self) -> None:
        self.resolved = True
        if self._then is not None:
            self._then(self)


def finish(steps: Steps[T]) -> T | Pending:
    """Do steps as far as the answers are known; return their value, now or when it is known."""
    try:
        answer = next(steps)
        while type(answer) is not Pending:
            answer = steps.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value
    whole = Pending()
    _wait(steps, whole, answer)
    return whole


def at_once(steps: Steps[T]) -> T:
    """Return the value of steps whose answers are all known at once."""
    value = finish(steps)
    assert not isinstance(value, Pending)
    return value


def _wait(steps: Steps[Any], whole: Pending, answer: Pending) -> None:
    answer.then(lambda known: _go_on(steps, whole, known))


def _go_on(steps: Steps[Any], whole: Pending, known: Pending) -> None:
    """Do more steps, now that an answer is known."""
    try:
        answer = steps.send(known.value) if known.error is None else steps.throw(known.error)
        while type(answer) is not Pending:
            answer = steps.send(answer)
    except StopIteration as end:
        whole.resolve(end.value)
    except Exception as error:
        whole.fail(error)
    else:
        _wait(steps, whole, answer)
