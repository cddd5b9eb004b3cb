"""What is sent again, and when: calls from the first attempt to their results, without I/O.

A `RetriedCalls` returns the bytes to send, is given what arrived or the error, and decides what is
sent again, after which pause, and which results and errors the caller gets. The clients drive it:

    while exchange.unfinished:
        try:
            connect()                    # before `exchange.deadline`
            send(exchange.request())
            while exchange.awaiting:
                exchange.take(receive())
        except (ConnectionFailed, Denied) as error:
            sleep(exchange.failed(error))

The rules:

- A call that changes nothing, or has a request id, is sent again.
- Any other call is never sent again once a byte of it may have arrived.
- A call is not sent again by itself after later calls of its pipeline were sent.
- Nothing is sent again to a server that is not this service, or does not accept the client.
"""

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pwserver.client.commands import Call
from pwserver.client.round_trip import Replies, RoundTrip
from pwserver.errors import (
    ConfigError,
    ConnectionFailed,
    Denied,
    FateUnknown,
    NotSaved,
    ProtocolViolation,
    TlsFailed,
    Unavailable,
)
from pwserver.wire.messages import Reply

WINDOW = 256
"""Requests of a pipeline that are sent before their replies are read: enough to keep it busy."""

PAUSE_S = 0.05
PAUSE_S_MAX = 1.0
"""The pause before something is sent again. It doubles with every attempt up to the maximum, and is
shortened at random by up to a half, so that many clients do not all come back at once."""

Failure = ConnectionFailed | Denied
"""Why an attempt failed. `Denied` is about the token, before any request was sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may use. Raises `ConfigError` for limits out of range."""

    timeout_s: float
    connections_max: int
    attempts_max: int

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.timeout_s <= 86_400:
            raise ConfigError(
                f"timeout_s is {self.timeout_s}; it must be more than 0 and at most 86400."
            )
        for name in ("connections_max", "attempts_max"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


class RetriedCalls(RoundTrip):
    """Calls, and how far they have come. It is not used again after it is finished.

    `awaiting` is True while replies are to come on this connection. `deadline` is that of the
    window.
    """

    def __init__(self, calls: Sequence[Call[Any]], limits: Limits) -> None:
        super().__init__(0.0)
        self._calls = calls
        self._limits = limits
        self._results: list[Any] = [None] * len(calls)
        self._window: deque[int] = deque()  # the places of the calls that await a reply
        self._next = 0  # the place at which the next window begins
        self._attempts = 0  # failed attempts of this window
        self._open: set[int] = set()  # the places of the calls of which a reply was lost
        self._answered = False
        self._replies = Replies()
        self._begin_window()

    @property
    def unfinished(self) -> bool:
        """Whether there is something to send."""
        return bool(self._window)

    def request(self) -> bytes:
        """Return what to send now, all of it; from here on it may have arrived."""
        self.awaiting = True
        self._replies = Replies()
        return b"".join([self._calls[place].request for place in self._window])

    def take(self, data: bytes) -> None:
        """Take what arrived; nothing means that the service closed the connection.

        Raises `ConnectionFailed` if the connection must not be used any more.
        """
        for reply in self._replies.take(data):
            if not self._window:
                raise ProtocolViolation("the service sent more than was asked for.")
            self._results[self._window[0]] = self._result(self._window[0], reply)
            self._window.popleft()
            self._answered = True
        if not self._window:
            self._replies.check_end()
            self._begin_window()

    def failed(self, error: Failure) -> float:
        """Record that an attempt failed; return the seconds to wait before the next one."""
        if self.awaiting and not isinstance(error, TlsFailed):
            self._open.update(self._window)
        self.awaiting = False
        self._attempts += 1
        pause_s = min(PAUSE_S * 2 ** (self._attempts - 1), PAUSE_S_MAX) * random.uniform(0.5, 1)
        if (
            isinstance(error, ProtocolViolation | TlsFailed | Denied)
            or self._attempts >= self._limits.attempts_max
            or pause_s >= self.seconds_left
        ):
            self._give_up(error)
            return 0.0
        for place in [place for place in self._window if not self._may_repeat(place)]:
            self._results[place] = self._lost(place, error)
            self._window.remove(place)
        if not self._window:
            self._begin_window()
        return pause_s if self._window else 0.0

    def results(self) -> list[Any]:
        """Return a result or an error for each call; raise if none was answered."""
        if self._calls and not self._answered:
            raise self._results[0]
        return self._results

    def _begin_window(self) -> None:
        self._window.extend(range(self._next, min(self._next + WINDOW, len(self._calls))))
        self._next += len(self._window)
        self._attempts = 0
        self.awaiting = False
        self.deadline = time.monotonic() + self._limits.timeout_s

    def _result(self, place: int, reply: Reply) -> Any:
        """Return the result of a call, or raise if it must be sent again.

        After "Unavailable!" a change may or may not have been made, as after a lost connection. The
        same is true after "Not saved!" if the reply to an earlier attempt was lost, which may still
        be on its way to the disk. It is not true of a `VersionConflict`: the earlier attempt would
        not save over another version either.
        """
        call = self._calls[place]
        result = call.result(reply)
        is_open = isinstance(result, Unavailable) or (
            type(result) is NotSaved and place in self._open
        )
        if not (is_open and call.fate):
            return result
        error = ConnectionFailed(str(result))
        if call.repeatable and len(self._window) == 1:  # none was sent after it
            raise error
        return _fate_unknown(call, error)

    def _may_repeat(self, place: int) -> bool:
        return place not in self._open or self._calls[place].repeatable

    def _lost(self, place: int, error: Failure) -> Failure:
        """Return the error for a call that was not answered."""
        call = self._calls[place]
        return _fate_unknown(call, error) if call.fate and place in self._open else error

    def _give_up(self, error: Failure) -> None:
        """End with an error for each call that has no result."""
        for place in [*self._window, *range(self._next, len(self._calls))]:
            self._results[place] = self._lost(place, error)
        self._window.clear()
        self._next = len(self._calls)


def _fate_unknown(call: Call[Any], error: Failure) -> FateUnknown:
    return FateUnknown(f"{call.fate}: {error}")
