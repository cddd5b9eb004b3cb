"""Pipelines: requests that are gathered, and sent together for the price of a few round trips.

They do no input or output: the client they are of runs the calls. Each method takes what that of
`Client` takes, and adds the call instead of doing it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Self

from pwserver import calls
from pwserver.calls import Call

P = ParamSpec("P")


def _adds(make: Callable[P, Call[Any]]) -> "Callable[Concatenate[_Gathering, P], None]":
    """Return the method that adds the calls which a function makes."""

    def add(self: "_Gathering", /, *args: P.args, **kwargs: P.kwargs) -> None:
        self._calls.append(make(*args, **kwargs))

    add.__name__ = make.__name__
    add.__doc__ = make.__doc__
    return add


class _Gathering:
    """Calls in the order in which they were added, and what became of them.

    `results` has one entry for each call after they were sent: what the method of the client would
    have returned, or the exception that it would have raised.
    """

    def __init__(self) -> None:
        self._calls: list[Call[Any]] = []
        self.results: list[Any] = []

    save_password = _adds(calls.save_password)
    get_password = _adds(calls.get_password)
    verify_password = _adds(calls.verify_password)
    password_history = _adds(calls.password_history)
    restore_password = _adds(calls.restore_password)
    label_user = _adds(calls.label_user)
    list_users = _adds(calls.list_users)
    delete_user = _adds(calls.delete_user)
    generate_password = _adds(calls.generate_password)
    check_password = _adds(calls.check_password)
    number_of_users = _adds(calls.number_of_users)
    ping = _adds(calls.ping)
    status = _adds(calls.status)

    def _taken(self) -> list[Call[Any]]:
        taken, self._calls = self._calls, []
        return taken


class Pipeline(_Gathering):
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

        Raises `ConnectionFailed` or `FateUnknown` where not even one was answered.
        """
        self.results = self._run(self._taken())
        return self.results


class AsyncPipeline(_Gathering):
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

        Raises `ConnectionFailed` or `FateUnknown` where not even one was answered.
        """
        self.results = await self._run(self._taken())
        return self.results
