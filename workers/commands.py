"""The command table: each message that a client may send, and how it is done.

To add a command: a message in `pwserver.protocol`, a row here, a test. A row's function is given
the worker's `Context`, the connection, and one or more requests of its kind that came behind each
other: a pipeline of saves costs one call, not one for each. It returns their replies in order, or
None where the writer's answer makes the replies later.

`writes` says that the command goes through the writer. One that does not is held back until the
connection's writes before it are answered, and holds back those behind it, so that every request
sees exactly the requests before it on its connection.
"""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from pwserver import protocol
from pwserver.errors import InvalidMessage, NotSaved, Unavailable
from pwserver.handoff import Scoreboard
from pwserver.protocol import Bad, Id, NumberOfUsers, Ping, SavePassword
from workers.batches import QUEUE_FULL, ROW_OVERHEAD_BYTES, Batches, Outcome, Waiter
from workers.models import IdClock
from workers.vault import Vault


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
    do: Callable[[Context, Waiter, list[Any]], list[bytes] | None]
    writes: bool
    does: str


def save_password(
    context: Context, connection: Waiter, requests: list[SavePassword]
) -> list[bytes] | None:
    """Seal the passwords and queue them for the writer."""
    if context.batches.full:
        return [not_saved(QUEUE_FULL, request.id) for request in requests]
    key_id, seal, next_id = context.vault.key_id, context.vault.seal, context.ids.next
    rows, ids, size = [], [], 0
    for request in requests:  # the hottest loop there is: everything in it is paid per password
        user_id = next_id()
        sealed = seal(request.password, user_id)
        rows.append((user_id, key_id, sealed, context.now_ms))
        ids.append(request.id)
        size += len(sealed) + ROW_OVERHEAD_BYTES
    context.batches.add(connection, rows, ids, size, context.now)
    return None


def number_of_users(
    context: Context, connection: Waiter, requests: list[NumberOfUsers]
) -> list[bytes]:
    """Answer from the scoreboard, and have the console print the users in its own time."""
    scoreboard = context.scoreboard
    if not scoreboard.listing_wanted:
        scoreboard.listing_wanted = True
        with contextlib.suppress(OSError):  # full: then the console will wake without it
            context.bell.send(b"!")
    users = scoreboard.users
    return [protocol.return_number_of_users(users, request.id) for request in requests]


def ping(context: Context, connection: Waiter, requests: list[Ping]) -> list[bytes]:
    """Answer, and nothing else."""
    return [protocol.alive(request.id) for request in requests]


def bad(context: Context, connection: Waiter, requests: list[Bad]) -> list[bytes]:
    """Say what is wrong with a message, or nothing where the seed says nothing."""
    return [
        protocol.encode(InvalidMessage.message, request.id)
        if request.error is None
        else protocol.encode(InvalidMessage.message, request.id, error=request.error)
        for request in requests
    ]


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
