"""Any bytes as what three clients send, one after the other or at once, and what is answered.

An input is packets, dealt to the clients in turn: an application of the common book, one with a
book of its own, and a guest. Behind `TOGETHER` the next packet arrives while the one before waits
to be committed, and behind `LATER` when everything is answered. JSON texts have neither byte.

What must come is told by a reader apart: a reply to each message, in order, with its id, and with a
word that the command table has for it. Passwords and tokens are looked for in all that leaves the
service: replies that are not to have one, and the audit record. Nothing may be logged at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET

from pwserver.errors import Denied, Refused
from pwserver.limits import REPLIES_BYTES_MAX
from pwserver.wire.framing import reply_reader, request_reader
from pwserver.wire.messages import Authenticate, Bad, Message, Reply
from tests.trials.fuzz.in_process import SETTINGS, TOKENS, Service
from workers.book.names import composed
from workers.serving.authentication import WRONG_TOKENS_MAX
from workers.serving.commands import TABLE, Command, command_of
from workers.serving.connection import Connection

TOGETHER, LATER = b"\x1e", b"\x1d"
CLIENTS = (TOKENS["owner"], TOKENS["shop"], None)
"""The tokens that they show first."""

REFUSALS = frozenset(refusal.message for refusal in Refused.__subclasses__())
DONE = {command: re.findall("`(.+?)`", command.reply)[0] for command in TABLE}
"""What is answered to each command that is done."""

LOGGERS = ("workers", "pwserver")
HIDDEN = frozenset(("password", "token"))
WITH_A_PASSWORD = frozenset(("return_password", "return_generated_password"))
SECRET_LENGTH_MIN = 8
_SECRET = re.compile("(?=.*[0-9])(?=.*[^-0-9.:TZ ])", re.DOTALL)
"""What the service does not say by itself: words have no digits, and times nothing else."""

_GIVEN = re.compile(rb'"(?:password|token)"\s*:\s*("(?:[^"\\\n]|\\.)*")')
_LINES_BYTES_MAX = 1 << 20
_READ_BYTES = 1 << 16
_UNFORESEEN = ("log says where", "was altered")

Reached = set[tuple[Command, str]]
"""Commands, and what they were answered."""


class Client:
    """One of the clients: what it has sent, and what it was answered."""

    def __init__(self, service: Service, token: str | None) -> None:
        self._socket, self.connection = service.connect()
        self.sent = b""
        self.received = b""
        if token is not None:
            self.send(b'{"message": "authenticate", "token": "%s"}\n' % token.encode())

    def send(self, packet: bytes) -> None:
        """Send a packet, as far as the service has not hung up."""
        self.sent += packet
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.send(packet)

    def no_more_to_send(self) -> None:
        """Close the sending half."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def read(self) -> None:
        """Take what has come."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self._socket.recv(_READ_BYTES):
                self.received += data

    def close(self) -> None:
        """Close what is left."""
        self._socket.close()
        if not self.connection.closed:
            self.connection.close()


class Logged(logging.Handler):
    """Keeps what is logged, from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record.getMessage())


class Checker:
    """The service, and what is checked of it. Made once: it takes longer than an input."""

    def __init__(self, folder: Path) -> None:
        self._service = Service(folder)
        self._handler = Logged()
        self._logged = self._handler.records
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)

    def close(self) -> None:
        """Close the service, and listen to its logs no more."""
        self._service.close()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)

    def check(self, data: bytes) -> Reached:
        """Have the input done; raise where a promise is broken; return what was reached."""
        service = self._service
        self._logged.clear()
        service.begin_anew()
        recorded = service.recorded()
        clients = [Client(service, token) for token in CLIENTS]
        try:
            service.settle()
            self._talk(clients, data)
        finally:
            for client in clients:
                client.close()
        reached: Reached = set()
        for client in clients:
            reached |= check_replies(client)
        said: list[object] = [service.record_since(recorded)]
        for client in clients:
            said += [line for line in lines(client.received) if not _has_a_password(line)]
        check_secrets([client.sent for client in clients], said)
        assert not self._logged, self._logged
        self._check_rest(clients)
        return reached

    def _talk(self, clients: Sequence[Client], data: bytes) -> None:
        for number, (packet, then) in enumerate(packets(data)):
            clients[number % len(clients)].send(packet)
            if then == LATER:
                self._service.settle()
            elif number % len(clients) == len(clients) - 1:
                self._service.receive()
            for client in clients:
                client.read()
                check_memory(client.connection)
        self._service.settle()
        for client in clients:
            client.no_more_to_send()
        self._service.settle()
        for client in clients:
            client.read()

    def _check_rest(self, clients: Sequence[Client]) -> None:
        """Check that nothing is left of what was asked but the book, and that this is whole."""
        service = self._service
        assert service.commit_queue.empty
        assert not service.context.name_queues._queues
        assert not service.context.name_queues._bytes
        assert not service.context.name_queues._shares.total
        assert all(not client.connection.awaited for client in clients)
        users = list(service.users())
        assert len(users) == service.store.users == service.scoreboard.users
        assert all(service.opens(user) for user in users)


def packets(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the packets of an input, each with what stands behind it."""
    parts = re.split(b"([\x1d\x1e])", data)
    yield from zip(parts[::2], [*parts[1::2], LATER], strict=True)


def check_memory(connection: Connection) -> None:
    """Check that a connection keeps no more than its limits say."""
    if connection._reader is not None:
        assert len(connection._reader._buffer) <= SETTINGS.message_bytes_max
    kept = len(connection._unsent) + sum(map(len, connection._replies))
    assert kept <= REPLIES_BYTES_MAX + _LINES_BYTES_MAX


def check_replies(client: Client) -> Reached:
    """Check that each message has its reply; return what was asked and answered."""
    reader = request_reader(SETTINGS.message_bytes_max)
    requests = reader.feed(client.sent)
    requests += reader.end()
    replies = lines(client.received)
    understood = reply_reader(_LINES_BYTES_MAX).feed(client.received)
    assert all(isinstance(reply, Reply) for reply in understood)
    assert len(understood) == len(replies) <= len(requests), (requests, replies)
    answered = list(zip(requests, replies, strict=False))
    wrong_tokens = sum(_is_denied_token(request, reply) for request, reply in answered)
    if wrong_tokens < WRONG_TOKENS_MAX:  # or else the connection was closed
        assert len(replies) == len(requests), (requests, replies)
    return {(command_of(request), check_reply(request, reply)) for request, reply in answered}


def _is_denied_token(request: Message | Bad, reply: dict[str, Any]) -> bool:
    return isinstance(request, Authenticate) and reply["message"] == Denied.message


def check_reply(request: Message | Bad, reply: dict[str, Any]) -> str:
    """Check that a reply is one to a request; return its word."""
    word, error = reply["message"], reply.get("error")
    assert reply.get("id", UNSET) == getattr(request, "id")  # noqa: B009 - each request has one
    if isinstance(request, Bad):
        assert (word, error) == ("Invalid message!", request.error)
    else:
        assert word in REFUSALS or word == DONE[command_of(request)], (request, word)
    assert error is None or not any(each in error for each in _UNFORESEEN), error
    return str(word)


def check_secrets(sent: Sequence[bytes], said: Sequence[object]) -> None:
    """Check that no password that was given is in anything that is not to have it.

    Left out is what was also given elsewhere, as a name say, and what the service may say itself.
    """
    text = json.dumps(said, ensure_ascii=False)
    for secret in secrets_of(sent):
        assert json.dumps(secret, ensure_ascii=False)[1:-1] not in text, (
            "a password or a token was told"
        )


def secrets_of(sent: Sequence[bytes]) -> set[str]:
    """Return the passwords and tokens that were given, and nowhere else."""
    secrets, others = set(), []
    for stream in sent:
        for value in _GIVEN.findall(stream):
            with contextlib.suppress(ValueError):
                secrets.add(str(json.loads(value)))
        others.append(_GIVEN.sub(b"", stream).decode(errors="replace"))
        for request in request_reader(SETTINGS.message_bytes_max).feed(stream):
            if not isinstance(request, Bad):
                others += texts_of(request)
    elsewhere = "\n".join(others)
    elsewhere += composed(elsewhere)
    return {
        secret
        for secret in secrets
        if len(secret) >= SECRET_LENGTH_MIN and _SECRET.match(secret) and secret not in elsewhere
    }


def texts_of(request: Message) -> list[str]:
    """Return the texts of a request but those that are hidden."""
    fields = [getattr(request, each) for each in request.__struct_fields__ if each not in HIDDEN]
    return [
        str(text) for field in fields for text in (field if isinstance(field, list) else [field])
    ]


def lines(received: bytes) -> list[dict[str, Any]]:
    """Return the replies, each of which must be an object on a line of its own."""
    assert not received or received.endswith(b"\n")
    replies = [json.loads(line) for line in received.splitlines()]
    assert all(isinstance(reply, dict) for reply in replies)
    return replies


def _has_a_password(reply: dict[str, Any]) -> bool:
    return reply["message"] in WITH_A_PASSWORD
