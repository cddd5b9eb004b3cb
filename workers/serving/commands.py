"""The command table: each message that a client may send, and the function that handles it.

ARCHITECTURE.md says what else a new command needs besides a row here. Most commands handle
one request at a time (`each`): a function gets the worker's `Context`, the connection and the
request, and returns the reply, or an `Awaited` if the reply comes later, or raises a `Refused`,
which becomes the reply. They do as many requests as there is time for in the turn; the connection
keeps the others. The commands that matter for speed get all consecutive requests of their kind in
one call, so that a pipeline of saves costs one call. What one buffer can hold of these is done in
a millisecond, so they do not look at the clock.

`waits` means that the command must see the effect of the writes before it. It is held back until
the connection's earlier writes are answered, and it holds back the requests after it, so that every
request sees exactly the requests before it on its connection. `joins` tells whether it need not be
held back, because the commit of these writes answers it too. While a request waits for an answer of
the store, the requests after it are held back as well, except `reads`, which see the same book; if
it says in whose name they are, all of them.

`right` is the right that an application needs for the command; `KNOWN` stands for any application,
`ANYBODY` for any client. A client on this machine without a token may do only the commands
that are for `guests`: the basic contract's, and those that concern no book.

`lasts` means that the command is done even if its client is gone: it changes the book, has the
console print it, or says in whose name the changes after it are made.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET

from pwserver.errors import InvalidMessage, NotSaved
from pwserver.limits import REPLIES_BYTES_MAX
from pwserver.tally import COMMANDS, COUNTS, OTHERS, READS, SAVES, outcome_of
from pwserver.wire import messages
from pwserver.wire.messages import (
    Authenticate,
    Bad,
    CheckPassword,
    DeleteUser,
    GeneratePassword,
    GetPassword,
    LabelUser,
    ListUsers,
    Message,
    NumberOfUsers,
    PasswordHistory,
    Ping,
    RestorePassword,
    SavePassword,
    Status,
    VerifyPassword,
)
from workers.auth.applications import ANYBODY, KNOWN, Caller
from workers.serving import queries
from workers.serving.authentication import authenticate
from workers.serving.awaited import Awaited, Waiter
from workers.serving.commit_queue import (
    ROW_OVERHEAD_BYTES,
    Outcome,
    Saver,
    not_saved,
    queue_full,
)
from workers.serving.context import Context
from workers.serving.mutations import Delete, Generate, Label, Restore, Save, generate
from workers.serving.name_queues import refusal_of
from workers.serving.reads import read
from workers.serving.shares import named
from workers.storage.answers import Steps

Replies = Sequence[bytes | Awaited] | None
Do = Callable[[Context, Waiter, list[Any]], Replies]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """A row of the table. `reply` and `does` are its texts in docs/protocol.md.

    `do` returns the replies in order, as bytes or as `Awaited`; fewer than requests if there is no
    time for the last ones. If it has added what is awaited to the connection itself, it returns
    None. A command that is `quick` never leaves any, and its replies in one call tell of one
    outcome, unless some are awaited.

    `place` and `kind` say as what it is counted (`pwserver.tally`).
    """

    message: type[Message] | type[Bad]
    do: Do
    reply: str
    does: str
    right: str
    waits: bool = True
    guests: bool = False
    lasts: bool = False
    joins: Callable[[Context, Waiter], bool] = lambda context, waiter: False
    quick: bool = False
    reads: bool = False
    place: int = field(init=False)
    kind: int = field(init=False)

    def __post_init__(self) -> None:
        """Find out as what it is counted."""
        name = "invalid" if self.message is Bad else self.message.__struct_config__.tag
        object.__setattr__(self, "place", COMMANDS.index(str(name)))
        kind = COUNTS if self.message is NumberOfUsers else _KINDS.get(self.right, OTHERS)
        object.__setattr__(self, "kind", kind)


_KINDS = {"save": SAVES, "delete": SAVES, "get": READS, "verify": READS, "list": READS}


def each(answer: Callable[[Context, Waiter, Any], bytes | Awaited]) -> Do:
    """Make a `Do` from a function that handles one request.

    It handles at least one, and stops when the turn's time is up or when the replies have
    `REPLIES_BYTES_MAX`.
    """

    def do(context: Context, waiter: Waiter, requests: list[Any]) -> Replies:
        replies: list[bytes | Awaited] = []
        size = 0
        for request in requests:
            try:
                reply = answer(context, waiter, request)
            except Exception as error:
                reply = messages.refusal(refusal_of(error), request.id)
            replies.append(reply)
            if isinstance(reply, bytes):
                size += len(reply)
            if size > REPLIES_BYTES_MAX or context.late:
                break
        return replies

    return do


def reading(answer: Callable[[Context, Waiter, Any], Steps[Any]]) -> Do:
    """Make a `Do`, likewise, from a function that needs an answer of the store for its reply."""

    def do(context: Context, waiter: Waiter, request: Any) -> bytes | Awaited:
        return read(answer(context, waiter, request), waiter, request.id)

    return each(do)


# --- The basic contract's exchanges, and others that cost as little. ---


def save_plain(context: Context, waiter: Waiter, requests: list[SavePassword]) -> Replies:
    """Seal the passwords of one connection and queue them for the writer."""
    caller = waiter.peer.caller
    why = context.why_no_room(caller)
    if why is not None or context.commit_queue.full(caller.application):
        refusal = queue_full(caller.application) if why is None else Outcome(reason=why)
        return [not_saved(refusal, request.id) for request in requests]
    if caller.saves_are_limited:
        return _save_limited(context, waiter, requests)
    savers = [(waiter, [request.id for request in requests])]
    save_together(context, caller, savers, requests)
    return None


def _save_limited(context: Context, waiter: Waiter, requests: list[SavePassword]) -> Replies:
    """Save for an application with a quota of saves or users, and refuse what is beyond it.

    The writer alone can tell whether there are too many users, and answers each of these saves.
    """
    caller = waiter.peer.caller
    allowed = _allowed(context, caller, len(requests))
    now, beyond = requests[:allowed], requests[allowed:]
    refusal = _too_many_saves(caller)
    refusals = [messages.refusal(refusal, request.id) for request in beyond]
    if caller.users_max or not now:
        saves = [_queue(context, Save(context, waiter, each, each.password)) for each in now]
        return [*saves, *refusals]
    save_together(context, caller, [(waiter, [request.id for request in now])], now)
    if refusals:
        context.tally.answer(SAVE_PLAIN.place, SAVES, outcome_of(refusals[0]), len(refusals))
        waiter.awaited.extend(map(Awaited, refusals))
    return None


def _allowed(context: Context, caller: Caller, saves: int) -> int:
    """Return how many of these saves an application may do now, and count these."""
    per_s = caller.saves_per_s
    if not per_s:
        return saves
    return context.registry.usage.saves(caller.number, per_s, saves, context.now)


def _too_many_saves(caller: Caller) -> NotSaved:
    who = named(caller.application).capitalize()
    return NotSaved(f"{who} may save {caller.saves_per_s} times a second, and no more.")


def save_together(
    context: Context, caller: Caller, savers: list[Saver], requests: list[SavePassword]
) -> None:
    """Seal passwords of one caller and queue them; `requests` are in the order of `savers`."""
    user_ids = context.ids.take(len(requests))
    passwords = [request.password for request in requests]
    rows = context.vault.seal_rows(passwords, user_ids, caller.book, context.now_ms)
    size = sum([len(row[3]) for row in rows]) + len(rows) * ROW_OVERHEAD_BYTES
    context.commit_queue.add(caller.application, savers, rows, size, context.now)


def number_of_users(context: Context, waiter: Waiter, requests: list[NumberOfUsers]) -> Replies:
    """Answer from the scoreboard, or after the saves before it from the transaction that does them.

    Wakes the console, which prints the users later. The first who asks for a listing is in the
    audit record, and those who share it are not.
    """
    scoreboard = context.scoreboard
    if not scoreboard.listing_wanted:
        scoreboard.listing_wanted = True
        with contextlib.suppress(OSError):  # full: the console will wake anyway
            context.bell.send(b"!")
        context.note(waiter.peer, "listing", None, "ok")
    if waiter.awaited:
        ids = [request.id for request in requests]
        context.commit_queue.add_counts(waiter, ids, scoreboard)
        return None
    users = scoreboard.users
    return [messages.return_number_of_users(users, request.id) for request in requests]


def count_joins(context: Context, waiter: Waiter) -> bool:
    """Tell whether a count can be answered by the commit of the saves before it."""
    return context.commit_queue.may_count(waiter)


def ping(context: Context, waiter: Waiter, requests: list[Ping]) -> Replies:
    """Answer that the service is alive."""
    return [messages.alive(request.id) for request in requests]


def bad(context: Context, waiter: Waiter, requests: list[Bad]) -> Replies:
    """Answer that a message is invalid, with the reason if the basic contract allows one."""
    return [messages.invalid_message(request) for request in requests]


# --- Changes to the book. ---


def save_with_fields(context: Context, waiter: Waiter, request: SavePassword) -> bytes | Awaited:
    """Save as the newest version of the user that has the name, or as a new user without one."""
    return _queue_save(context, Save(context, waiter, request, request.password))


def generate_and_save(
    context: Context, waiter: Waiter, request: GeneratePassword
) -> bytes | Awaited:
    """Generate a password, and save it as the newest version of the user that has the name."""
    return _queue_save(context, Generate(context, waiter, request, generate(request)))


def generate_password(context: Context, waiter: Waiter, request: GeneratePassword) -> bytes:
    """Generate a password without saving it."""
    password = generate(request)
    for_saves = (request.labels, request.if_version, request.request_id)
    if any(field is not UNSET for field in for_saves):
        raise InvalidMessage('"username" is missing: without it nothing is saved.')
    return messages.encode("return_generated_password", request.id, password=password)


def restore_password(context: Context, waiter: Waiter, request: RestorePassword) -> bytes | Awaited:
    """Save the password of an older version again, as the newest."""
    return _queue_save(context, Restore(context, waiter, request))


def label_user(context: Context, waiter: Waiter, request: LabelUser) -> Awaited:
    """Set the labels of a user."""
    return _queue(context, Label(context, waiter, request))


def delete_user(context: Context, waiter: Waiter, request: DeleteUser) -> Awaited:
    """Delete a user."""
    return _queue(context, Delete(context, waiter, request))


def _queue_save(context: Context, save: Save) -> bytes | Awaited:
    """Queue a save, or refuse it if its application may not save so often."""
    caller = save.waiter.peer.caller
    if caller.saves_are_limited and not _allowed(context, caller, 1):
        return read(save.refused(_too_many_saves(caller)), save.waiter, save.id)
    return _queue(context, save)


def _queue(context: Context, write: Save | Label | Delete) -> Awaited:
    context.name_queues.add(write, context.now)
    return write


SAVE_PLAIN = Command(
    SavePassword,
    save_plain,
    "`Password saved!`",
    "saves a password as a new user under a generated name",
    "save",
    waits=False,
    guests=True,
    lasts=True,
    quick=True,
)
SAVE_ONCE = Command(
    SavePassword,
    each(save_with_fields),
    "`Password saved!`",
    "does the same, but once only, however often it is sent",
    "save",
    waits=False,
    guests=True,
    lasts=True,
)
SAVE_NAMED = Command(
    SavePassword,
    each(save_with_fields),
    "`Password saved!` with `username`, `version`",
    "saves it as the newest version of that user's password; a new name makes a user",
    "save",
    waits=False,
    lasts=True,
)
GENERATE = Command(
    GeneratePassword,
    each(generate_password),
    "`return_generated_password` with `password`",
    "makes a random password, which is not saved",
    KNOWN,
    waits=False,
    guests=True,
)
GENERATE_NAMED = Command(
    GeneratePassword,
    each(generate_and_save),
    "`return_generated_password` with `password`, `username`, `version`",
    "makes a random password and saves it in the same step",
    "save",
    waits=False,
    lasts=True,
)
COUNT = Command(
    NumberOfUsers,
    number_of_users,
    "`return_number_of_users` with `number_of_users`",
    "counts the users; the service prints them on its console",
    "count",
    guests=True,
    lasts=True,
    joins=count_joins,
    quick=True,
)
TABLE = (
    SAVE_PLAIN,
    SAVE_ONCE,
    SAVE_NAMED,
    COUNT,
    Command(
        GetPassword,
        reading(queries.get_password),
        "`return_password` with `username`, `password`, `version`, `time_saved`",
        "reads a password: the newest version, or the one asked for",
        "get",
        reads=True,
    ),
    Command(
        VerifyPassword,
        reading(queries.verify_password),
        "`return_verify_password` with `valid`",
        "compares a password with a user's newest; an unknown name is like a wrong password",
        "verify",
        reads=True,
    ),
    Command(
        PasswordHistory,
        reading(queries.password_history),
        "`return_password_history` with `username`, `versions`",
        "lists the versions that are kept, newest first, each with `version` and `time_saved`",
        "list",
        reads=True,
    ),
    Command(
        RestorePassword,
        each(restore_password),
        "`Password restored!` with `username`, `version`",
        "saves what an older version holds as the newest",
        "save",
        waits=False,
        lasts=True,
    ),
    Command(
        LabelUser,
        each(label_user),
        "`User labelled!` with `username`, `labels`",
        "sets a user's labels, in place of those it has",
        "save",
        waits=False,
        lasts=True,
    ),
    Command(
        ListUsers,
        reading(queries.list_users),
        "`return_users` with `users`, `after`",
        "lists users by name, each with `username`, `labels`, `version` and `time_saved`; the next "
        "page is asked for with the reply's `after`, which is null at the end",
        "list",
        reads=True,
    ),
    Command(
        DeleteUser,
        each(delete_user),
        "`User deleted!`",
        "deletes a user and all versions of its password",
        "delete",
        waits=False,
        lasts=True,
    ),
    GENERATE,
    GENERATE_NAMED,
    Command(
        CheckPassword,
        each(queries.check_password),
        "`return_check_password` with `strength`, `warning`, `suggestions`",
        "judges how hard a password is to guess, from 0 to 4, and says what is weak about it",
        KNOWN,
        waits=False,
        guests=True,
    ),
    Command(
        Authenticate,
        reading(authenticate),
        "`Authenticated!` with `application`, `may`",
        "says which application this is; what follows on the connection is done as that one's",
        ANYBODY,
        guests=True,
        lasts=True,
    ),
    Command(Ping, ping, "`Alive!`", "does nothing else", ANYBODY, guests=True, quick=True),
    Command(
        Status,
        each(queries.status),
        "`return_status` with `number_of_users`, `workers`, `uptime_s`, `parts`",
        "says how the service is doing, and which versions its parts have; while nothing can be "
        "saved also why (`write_error`) and since when (`write_error_since`); when the "
        "caller's token expires, if it does (`token_expires`); and, if the service makes backups, "
        "how old the newest is (`backup_age_s`), and if they fail, why (`backup_error`) and since "
        "when (`backup_error_since`)",
        "count",
    ),
)

_BAD = Command(Bad, bad, "", "", ANYBODY, guests=True, quick=True)
_BY_MESSAGE = {command.message: command for command in (*TABLE, _BAD)}


def command_of(request: Message | Bad) -> Command:
    """Return the row that handles a request."""
    if type(request) is SavePassword:
        if request.plain:
            return SAVE_PLAIN
        return SAVE_ONCE if request.once else SAVE_NAMED
    if type(request) is GeneratePassword:
        return GENERATE if request.username is UNSET else GENERATE_NAMED
    return _BY_MESSAGE[type(request)]


def groups_of(requests: Sequence[Message | Bad]) -> Iterator[tuple[Command, list[Any]]]:
    """Yield consecutive requests of a kind together, with the row that handles them."""
    if requests and _are_plain_saves(requests):
        yield SAVE_PLAIN, list(requests)
        return
    for command, group in itertools.groupby(requests, command_of):
        yield command, list(group)


def _are_plain_saves(requests: Sequence[Message | Bad]) -> bool:
    """Tell whether all are plain saves, without a function call for each (for deep pipelines)."""
    for request in requests:
        if (
            type(request) is not SavePassword
            or request.username is not UNSET
            or request.labels is not UNSET
            or request.if_version is not UNSET
            or request.request_id is not UNSET
        ):
            return False
    return True
