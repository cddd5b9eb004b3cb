"""The command table: each message that a client may send, and how it is done.

To add a command: a message in `pwserver.protocol`, a row here, a test. A row's function is given
the worker's `Context`, the connection and the message. It returns the reply, or None where the
writer's answer makes the reply later.

`writes` says that the command goes through the writer. One that does not is held back until the
connection's writes before it are answered, and holds back those behind it, so that every request
sees exactly the requests before it on its connection.
"""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from pwserver import protocol
from pwserver.errors import InvalidMessage, NotSaved, Unavailable
from pwserver.handoff import Scoreboard
from pwserver.protocol import Bad, Id, NumberOfUsers, Ping, SavePassword
from workers.batches import QUEUE_FULL, Batches, Outcome
from workers.models import IdClock
from workers.vault import Vault

if TYPE_CHECKING:
    from workers.connection import Connection


@dataclass(slots=True)
class Context:
    """What the commands of one worker work with. `now` and `now_ms` are set once a turn."""

    vault: Vault
    ids: IdClock
    batches: Batches
    scoreboard: Scoreboard
    bell: socket.socket  # a byte here wakes the console
    now: float = 0.0  # seconds of the monotonic clock
    now_ms: int = 0  # milliseconds since 1970


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `does` is the sentence in the README's list."""

    message: type[Struct]
    do: Callable[[Context, "Connection", Any], bytes | None]
    writes: bool
    does: str


def save_password(
    context: Context, connection: "Connection", request: SavePassword
) -> bytes | None:
    """Seal the password and queue it for the writer."""
    if context.batches.full:
        return not_saved(QUEUE_FULL, request.id)
    user_id = context.ids.next()
    vault = context.vault
    row = (user_id, vault.key_id, vault.seal(request.password, user_id), context.now_ms)
    context.batches.add(connection, row, request.id, context.now)
    return None


def number_of_users(context: Context, connection: "Connection", request: NumberOfUsers) -> bytes:
    """Answer from the scoreboard, and have the console print the users in its own time."""
    scoreboard = context.scoreboard
    if not scoreboard.listing_wanted:
        scoreboard.listing_wanted = True
        with contextlib.suppress(OSError):  # full: then the console will wake without it
            context.bell.send(b"!")
    return protocol.return_number_of_users(scoreboard.users, request.id)


def ping(context: Context, connection: "Connection", request: Ping) -> bytes:
    """Answer, and nothing else."""
    return protocol.alive(request.id)


def bad(context: Context, connection: "Connection", request: Bad) -> bytes:
    """Say what is wrong with a message, or nothing where the seed says nothing."""
    if request.error is None:
        return protocol.encode(InvalidMessage.message, request.id)
    return protocol.encode(InvalidMessage.message, request.id, error=request.error)


def not_saved(outcome: Outcome, id: Id) -> bytes:
    """Return the reply to a save that did not happen, or may not have."""
    word = NotSaved.message if outcome.known else Unavailable.message
    return protocol.encode(word, id, error=outcome.reason)


TABLE = (
    Command(SavePassword, save_password, True, "saves `password` as a new user"),
    Command(
        NumberOfUsers,
        number_of_users,
        False,
        "answers how many users there are; the service prints them on its console",
    ),
    Command(Ping, ping, False, "answers `Alive!`"),
)

BY_MESSAGE = {command.message: command for command in (*TABLE, Command(Bad, bad, False, ""))}
