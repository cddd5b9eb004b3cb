"""The client library: what an application imports.

    from pwserver import Client

    with Client("127.0.0.1", 12345) as book:
        book.save_password("abc123")
        book.number_of_users()

Needs nothing but the standard library and msgspec. A `Client` is one connection, made when it is
first needed and again after it was lost. What it never does is save twice without saying so: a save
whose answer was lost raises `FateUnknown`, and is not sent again.
"""

import select
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from pwserver import framing, protocol
from pwserver.config import ClientSettings
from pwserver.errors import (
    ConnectionFailed,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    ProtocolViolation,
    PwserverError,
    Refused,
    Unavailable,
)
from pwserver.protocol import Bad, Reply

_DEFAULTS = ClientSettings()

REPLY_BYTES_MAX = 1024 * 1024
"""The longest reply that is accepted."""

PIPELINE_WINDOW = 256
"""Requests sent before their replies are read: enough to keep the service busy, and little enough
that neither side's buffers can fill up while both of them wait."""

_REFUSALS: dict[str, type[Refused]] = {
    kind.message: kind for kind in (InvalidMessage, NotSaved, Unavailable)
}


class Client:
    """A connection to the service. Not to be used by two threads at once.

    `timeout_s` bounds every call as a whole, and every window of a pipeline. All methods raise
    `ConnectionFailed` where the service cannot be reached, and a `Refused` where it says no.
    """

    def __init__(
        self,
        host: str = _DEFAULTS.host,
        port: int = _DEFAULTS.port,
        timeout_s: float = _DEFAULTS.timeout_s,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._reader = framing.reply_reader(REPLY_BYTES_MAX)
        self._replies: list[Reply | Bad] = []  # received and not yet asked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save_password(self, password: str) -> None:
        """Save a password (1 to 4,096 characters) as a new user.

        Returns when it would survive a power loss. Raises `NotSaved` where it certainly was not
        saved, `InvalidMessage` where it never can be, and `FateUnknown` where nobody can tell.
        """
        self._call(_save_password(password))

    def number_of_users(self) -> int:
        """Return how many users there are. The service's console lists them."""
        return int(self._call(_NUMBER_OF_USERS))

    def ping(self) -> None:
        """Return if the service is alive."""
        self._call(_PING)

    def pipeline(self) -> "Pipeline":
        """Return a pipeline: many requests for the price of a few round trips."""
        return Pipeline(self._run)

    def close(self) -> None:
        """Close the connection. The next call makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _call(self, call: "_Call") -> Any:
        """Do one request, once more on a new connection where that can do no harm."""
        deadline = time.monotonic() + self.timeout_s
        try:
            result = self._run([call], deadline)[0]
        except ConnectionFailed as error:
            if call.saves or isinstance(error, ProtocolViolation):
                raise
            result = self._run([call], deadline)[0]
        if isinstance(result, PwserverError):
            raise result
        return result

    def _run(self, calls: "list[_Call]", deadline: float | None = None) -> list[Any]:
        """Send requests and return a result or an error for each.

        Raises `ConnectionFailed` where the first was not answered; `FateUnknown` if it is a save.
        """
        results: list[Any] = []
        while len(results) < len(calls):
            window_deadline = deadline or time.monotonic() + self.timeout_s
            window = calls[len(results) : len(results) + PIPELINE_WINDOW]
            sent_until = len(results)
            try:
                connection = self._connect(window_deadline)
                sent_until += len(window)
                _send(connection, b"".join(call.request for call in window), window_deadline)
                for call in window:
                    results.append(call.result(self._reply(connection, window_deadline)))
            except ConnectionFailed as error:
                self.close()
                answered = len(results)
                results += [_lost(call, error) for call in calls[answered:sent_until]]
                results += [error] * (len(calls) - len(results))
                if not answered:
                    raise results[0] from None
            except BaseException:  # interrupted: a reply that comes late must not answer the next
                self.close()
                raise
        return results

    def _connect(self, deadline: float) -> socket.socket:
        """Return the connection, a new one where there is none or the service has closed it."""
        if self._socket is not None and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._reader = framing.reply_reader(REPLY_BYTES_MAX)
            self._replies = []
            try:
                self._socket = socket.create_connection((self.host, self.port), _left(deadline))
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise ConnectionFailed(
                    f"{self.host}:{self.port} cannot be reached: {reason}."
                ) from None
        return self._socket

    def _reply(self, connection: socket.socket, deadline: float) -> Reply:
        while not self._replies:
            try:
                connection.settimeout(_left(deadline))
                data = connection.recv(65536)
            except TimeoutError:
                raise ConnectionFailed("the service did not answer in time.") from None
            except OSError as error:
                raise ConnectionFailed(f"the connection was lost: {error.strerror}.") from None
            if not data:
                raise ConnectionFailed("the service closed the connection.")
            self._replies = self._reader.feed(data)
        reply = self._replies.pop(0)
        if isinstance(reply, Bad):
            raise ProtocolViolation("the answer is not one of this service.")
        return reply


class Pipeline:
    """Requests that are gathered and sent together by `execute`, or at the end of a `with`.

    After that `results` has one entry for each, in order: what the method of `Client` would have
    returned, or the exception that it would have raised.
    """

    def __init__(self, run: "Callable[[list[_Call]], list[Any]]") -> None:
        self._run = run
        self._calls: list[_Call] = []
        self.results: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.execute()

    def save_password(self, password: str) -> None:
        """Add a save."""
        self._calls.append(_save_password(password))

    def number_of_users(self) -> None:
        """Add a count."""
        self._calls.append(_NUMBER_OF_USERS)

    def execute(self) -> list[Any]:
        """Send what was added and return `results`.

        Raises `ConnectionFailed` or `FateUnknown` where not even the first was answered.
        """
        calls, self._calls = self._calls, []
        self.results = self._run(calls)
        return self.results


class _Call:
    """One request as bytes, and how its reply is read."""

    __slots__ = ("_read", "request", "saves")

    def __init__(self, request: bytes, saves: bool, read: Callable[[Reply], Any]) -> None:
        self.request = request
        self.saves = saves
        self._read = read

    def result(self, reply: Reply) -> Any:
        """Return what the reply says, or the error that it means."""
        refusal = _REFUSALS.get(reply.message)
        if refusal is None:
            return self._read(reply)
        text = reply.error or "The service does not know this request."
        if refusal is Unavailable and self.saves:
            return FateUnknown(text)
        return refusal(text)


def _expect(message: str, field: str | None = None) -> Callable[[Reply], Any]:
    def read(reply: Reply) -> Any:
        value = getattr(reply, field) if field else None
        if reply.message != message or (field and value is None):
            raise ProtocolViolation(f"the answer {reply.message!r} was not expected.")
        return value

    return read


_SAVED = _expect("Password saved!")
_NUMBER_OF_USERS = _Call(
    protocol.encode("number_of_users"), False, _expect("return_number_of_users", "number_of_users")
)
_PING = _Call(protocol.encode("ping"), False, _expect("Alive!"))


def _save_password(password: str) -> _Call:
    if not isinstance(password, str):
        raise TypeError("a password is a text")
    try:
        return _Call(protocol.encode("save_password", password=password), True, _SAVED)
    except UnicodeEncodeError:
        raise InvalidMessage("the password holds half a character (a lone surrogate).") from None


def _lost(call: _Call, error: ConnectionFailed) -> ConnectionFailed:
    """Return what the caller of a request is told that was sent and whose reply was lost."""
    if call.saves:
        return FateUnknown(f"The password may or may not have been saved: {error}")
    return error


def _left(deadline: float) -> float:
    """Return the seconds until a deadline, at least so many that a socket does not refuse them."""
    return max(deadline - time.monotonic(), 0.001)


def _send(connection: socket.socket, data: bytes, deadline: float) -> None:
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(data)
    except TimeoutError:
        raise ConnectionFailed("the service did not take the request in time.") from None
    except OSError as error:
        raise ConnectionFailed(f"the connection was lost: {error.strerror}.") from None


def _has_ended(connection: socket.socket) -> bool:
    """Tell whether the service closed a connection on which no reply is awaited."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
