"""The demonstration: the seed's three messages, and what the service answers, in plain sight.

It uses a connection as the client does, and makes the messages itself: a main application in any
language needs a socket and JSON, and nothing else.
"""

import json
import time
from contextlib import closing
from typing import Any

from pwserver.access import Access
from pwserver.connection import Connection, connected_socket
from pwserver.errors import ConnectionFailed, ProtocolViolation
from pwserver.talk import Talk

MESSAGES = (
    {"message": "number_of_users"},
    {"message": "save_password", "password": "abc123"},
    {"message": "another_message", "data": "some_data"},
)


def demonstrate(access: Access, timeout_s: float) -> None:
    """Send the messages one after the other, and print each with its reply."""
    deadline = time.monotonic() + timeout_s
    with closing(Connection(connected_socket(access.url, deadline))) as connection:
        connection.greet(access, deadline)
        for message in MESSAGES:
            asked = _Asked(json.dumps(message), deadline)
            print("sent:    ", asked.text)
            connection.ask(asked)
            print("received:", json.dumps(asked.reply))


class _Asked(Talk):
    """One message, and the line that answers it."""

    def __init__(self, text: str, deadline: float) -> None:
        super().__init__(deadline)
        self.text = text
        self.reply: Any = None
        self._received = b""

    def request(self) -> bytes:
        """Return the message."""
        self.awaiting = True
        return self.text.encode()

    def take(self, data: bytes) -> None:
        """Take what arrived of the line."""
        if not data:
            raise ConnectionFailed("the service closed the connection.")
        self._received += data
        if self._received.endswith(b"\n"):
            self.awaiting = False
            self.reply = self._parsed()

    def _parsed(self) -> Any:
        try:
            return json.loads(self._received)
        except ValueError:
            raise ProtocolViolation("the answer is not one of this service.") from None
