"""Pipelines: they collect requests, and send them together in a few round trips.

They do no input or output: their client runs the calls. Each method takes the parameters of the
same method of `Client`, and adds the call to the pipeline instead of running it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from pwserver.client import commands
from pwserver.client.commands import Call
from pwserver.errors import PwserverError

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """A call that was added to a pipeline, and its result after the pipeline was sent."""

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._outcome: list[T | PwserverError] = []  # empty until it was sent

    def result(self) -> T:
        """Return what the method of the client would have returned, or raise what it would have.

        Raises `RuntimeError` if the pipeline was not sent.
        """
        if not self._outcome:
            raise RuntimeError("the pipeline was not sent: call execute, or leave its with block")
        return result_of(self._outcome)


def result_of(outcomes: list[T | PwserverError]) -> T:
    """Return the result of the only call, or raise its error."""
    (outcome,) = outcomes
    if isinstance(outcome, PwserverError):
        raise outcome
    return outcome


def _adds(make: Callable[P, Call[T]]) -> "Callable[Concatenate[_Commands, P], Pending[T]]":
    """Return the method that adds the call of a command to a pipeline."""

    def add(self: "_Commands", /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        return self.add(make(*args, **kwargs))

    commands.describe(add, make, "_Commands", Pending)
    return add


class _Commands:
    """The methods of both pipelines: calls in the order in which they were added.

    Each method returns the `Pending` result of its call. After the calls were sent, `results` has
    one entry for each: what the method of the client would have returned, or the exception that it
    would have raised.
    """

    def __init__(self) -> None:
        self._added: list[Pending[Any]] = []
        self.results: list[Any] = []

    def add(self, call: Call[T]) -> Pending[T]:
        """Add a call that was made by one of `commands`."""
        pending = Pending(call)
        self._added.append(pending)
        return pending

    save_password = _adds(commands.save_password)
    get_password = _adds(commands.get_password)
    verify_password = _adds(commands.verify_password)
    password_history = _adds(commands.password_history)
    restore_password = _adds(commands.restore_password)
    label_user = _adds(commands.label_user)
    list_users = _adds(commands.list_users)
    delete_user = _adds(commands.delete_user)
    generate_password = _adds(commands.generate_password)
    check_password = _adds(commands.check_password)
    number_of_users = _adds(commands.number_of_users)
    ping = _adds(commands.ping)
    status = _adds(commands.status)

    def _taken(self) -> tuple[list[Pending[Any]], list[Call[Any]]]:
        added, self._added = self._added, []
        return added, [pending._call for pending in added]

    def _settle(self, added: list[Pending[Any]], results: Sequence[Any]) -> list[Any]:
        for pending, result in zip(added, results, strict=True):
            pending._outcome = [result]
        self.results = [*results]
        return self.results


class Pipeline(_Commands):
    """Requests that are sent by `execute`, or at the end of a `with`."""

    def __init__(self, run: Callable[[list[Call[Any]]], list[Any]]) -> None:
        super().__init__()
        self._run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.execute()

    def execute(self) -> list[Any]:
        """Send what was added and return `results`.

        Raises `ConnectionFailed` or `FateUnknown` if none was answered.
        """
        added, calls = self._taken()
        try:
            results = self._run(calls)
        except PwserverError as error:
            self._settle(added, [error] * len(added))
            raise
        return self._settle(added, results)


class AsyncPipeline(_Commands):
    """Requests that are sent by `await execute()`, or at the end of an `async with`."""

    def __init__(self, run: Callable[[list[Call[Any]]], Awaitable[list[Any]]]) -> None:
        super().__init__()
        self._run = run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.execute()

    async def execute(self) -> list[Any]:
        """Send what was added and return `results`.

        Raises `ConnectionFailed` or `FateUnknown` if none was answered.
        """
        added, calls = self._taken()
        try:
            results = await self._run(calls)
        except PwserverError as error:
            self._settle(added, [error] * len(added))
            raise
        return self._settle(added, results)
