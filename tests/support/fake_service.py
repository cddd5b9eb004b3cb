"""Fake services for tests of the clients: they give fixed answers, or misbehave on purpose.

They listen on a free port of the loopback, with or without TLS, or on a Unix socket, and serve each
connection in a thread of its own. A behaviour serves a connection: the first connection gets the
first one of a list, and so on, and connections after the end of the list get the last one.
"""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from pwserver.wire import scram

Message = dict[str, Any]
Behaviour = Callable[["Conversation"], None]

SAVED: Message = {"message": "Password saved!"}
SAVED_AS: Message = {**SAVED, "username": "alice", "version": 1}
ALIVE: Message = {"message": "Alive!"}
TIME = "2026-11-22T17:20:01Z"

TOKEN = "pwserver_" + "canary-token_" * 3 + "AAAA"
AUTHENTICATE: Message = {"message": "authenticate", "token": TOKEN}
AUTHENTICATED: Message = {"message": "Authenticated!", "application": "shop", "may": ["get"]}
DENIED: Message = {"message": "Denied!"}


class Conversation:
    """The service's side of one connection."""

    def __init__(self, service: "FakeService", connection: socket.socket) -> None:
        self.connection = connection
        self._service = service
        self._lines: BinaryIO = connection.makefile("rb")
        self._proof: scram.Server | None = None

    def line(self) -> bytes:
        """Return the next line, or nothing at the end."""
        return self._lines.readline()

    def read(self) -> Message | None:
        """Return the next request, or None at the end."""
        line = self.line()
        if not line:
            return None
        request: Message = json.loads(line)
        if request.get("scram", "").startswith("n,,"):  # a client on TCP proves that it has a token
            self._proof = scram.Server(request["scram"])
            request = AUTHENTICATE
        self._service.requests.append(request)
        return request

    def authenticate(self, reply: Message) -> None:
        """Accept the token that was shown, or let the client prove that it has it."""
        if self._proof is None:
            self.say(reply)
            return
        challenge = self._proof.first(scram.Verifier.of(TOKEN))
        self.say({"message": "return_scram", "scram": challenge})
        if line := self.line():
            self.say({**reply, "scram": self._proof.final(json.loads(line)["scram"])})

    def say(self, reply: Message | bytes) -> None:
        """Send a reply: bytes as they are, a message as JSON."""
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n"
        self.connection.sendall(data)

    def close(self) -> None:
        """Close the connection for good."""
        with suppress(OSError):  # shut it down first, so that a reader in another thread ends
            self.connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self.connection.close()


class FakeService:
    """A service that runs until the end of a `with`; `requests` has its requests in order."""

    def __init__(
        self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None, unix: Path | None = None
    ) -> None:
        self._behaviours = behaviours
        self._tls = tls
        if unix is None:
            self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
            self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        else:
            self._server = socket.create_server(str(unix), family=socket.AF_UNIX, backlog=256)
            self.address = str(unix)
        scheme = "pwserver+unix" if unix else "pwservers" if tls else "pwserver"
        self.url = f"{scheme}://{self.address}"
        self.url_with_token = f"{scheme}://{TOKEN}@{self.address}"
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []  # as accepted, below any TLS
        self._lock = threading.Lock()
        self.open = 0  # connections that are open now
        self.requests: list[Message] = []
        self.open_most = 0  # the most connections that were open at once

    @property
    def connections(self) -> int:
        """How many connections there were in all."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._server.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the end of the test
            while True:
                connection, _ = self._server.accept()
                if connection.family != socket.AF_UNIX:  # send replies without delay
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                behave = self._behaviours[min(self.connections, len(self._behaviours) - 1)]
                self._connections.append(connection)
                with self._lock:
                    self.open += 1
                    self.open_most = max(self.open_most, self.open)
                thread = threading.Thread(target=self._serve, args=(behave, connection))
                self._threads.append(thread)
                thread.start()

    def _serve(self, behave: Behaviour, connection: socket.socket) -> None:
        with ExitStack() as at_the_end:
            at_the_end.callback(self._note_the_end)
            at_the_end.enter_context(connection)
            at_the_end.enter_context(suppress(OSError))  # the client may close when it likes
            spoken = connection
            if self._tls is not None:
                spoken = self._tls.wrap_socket(connection.dup(), server_side=True)
            conversation = Conversation(self, spoken)
            at_the_end.callback(conversation.close)
            behave(conversation)

    def _note_the_end(self) -> None:
        with self._lock:
            self.open -= 1


def authenticate(behave: Behaviour, reply: Message | bytes = AUTHENTICATED) -> Behaviour:
    """Read the token and answer it, then behave like `behave`."""

    def first(conversation: Conversation) -> None:
        if conversation.read() is not None:
            if reply == AUTHENTICATED:
                conversation.authenticate(AUTHENTICATED)
            else:
                conversation.say(reply)
            behave(conversation)

    return first


def answer(*replies: Message | bytes) -> Behaviour:
    """Answer the first requests with these replies, in order; then read on without answering."""

    def behave(conversation: Conversation) -> None:
        for reply in replies:
            if conversation.read() is None:
                return
            conversation.say(reply)
        while conversation.read() is not None:
            pass

    return behave


def answer_then_hang_up(*replies: Message | bytes, unanswered: int = 0) -> Behaviour:
    """Answer the first requests, read `unanswered` more, and close."""

    def behave(conversation: Conversation) -> None:
        for reply in replies:
            conversation.read()
            conversation.say(reply)
        for _ in range(unanswered):
            conversation.read()

    return behave


hang_up = answer_then_hang_up(unanswered=1)
"""Read a request and close without an answer."""

silence = answer()
"""Read and never answer."""


def answer_all(reply_to: Callable[[Message], Message]) -> Behaviour:
    """Answer every request with what a function returns for it."""

    def behave(conversation: Conversation) -> None:
        while (request := conversation.read()) is not None:
            conversation.say(reply_to(request))

    return behave


def echo(request: Message) -> Message:
    """Return `password of <name>` for any user's password, and success for everything else."""
    if request["message"] == "get_password":
        name = request["username"]
        found = {"username": name, "password": f"password of {name}", "version": 1}
        return {"message": "return_password", **found, "time_saved": TIME}
    if request["message"] == "save_password":
        return {**SAVED, "username": request.get("username"), "version": 1}
    return ALIVE
