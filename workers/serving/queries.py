"""The requests that read the book and change nothing in it.

Those that need an answer of the store are `Steps`: it may come at once or later.
"""

import hmac
import time

from msgspec import UNSET

from pwserver.errors import DatabaseRefused, Unavailable, UnknownUser, UnknownVersion
from pwserver.limits import CHECK_LENGTH_MAX
from pwserver.wire import messages
from pwserver.wire.messages import (
    LABEL_LENGTH_MAX,
    CheckPassword,
    GetPassword,
    ListUsers,
    PasswordHistory,
    Status,
    VerifyPassword,
)
from workers.auth.peers import Peer
from workers.auth.throttle import Limit
from workers.book import history
from workers.book.models import UserRow, time_saved
from workers.book.names import composed, normal
from workers.serving.awaited import Awaited, Recorded, Waiter
from workers.serving.context import Context
from workers.serving.name_queues import refusal_of
from workers.storage.answers import Steps
from workers.storage.backup_files import FAILURES
from workers.storage.operations import Entry
from workers.storage.outage import REASONS


def get_password(context: Context, waiter: Waiter, request: GetPassword) -> Steps[bytes]:
    """Return a password: the newest version, or the requested one."""
    name = normal(request.username, "username")
    try:
        user: UserRow | None = yield context.reader.find(waiter.peer.caller.book, name)
        if user is None:
            raise UnknownUser
        if context.lacks_key_of(user):
            yield from context.refreshed()
        reply = _password(context, user, name, request)
    except Exception as error:
        refusal = refusal_of(error)
        context.note(waiter.peer, "get", name, refusal.message)
        raise refusal from None
    context.note(waiter.peer, "get", name, "ok")
    return reply


def _password(context: Context, user: UserRow, name: str, request: GetPassword) -> bytes:
    version = user.version if request.version is UNSET else request.version
    found = context.password(user, version)
    if found is None:
        raise UnknownVersion
    password, saved_at_ms = found
    reply = messages.encode(
        "return_password",
        request.id,
        username=name,
        password=password,
        version=version,
        time_saved=time_saved(saved_at_ms),
    )
    return Recorded(reply, request.id)


def verify_password(
    context: Context, waiter: Waiter, request: VerifyPassword
) -> Steps[bytes | Awaited]:
    """Tell whether a password is a user's newest; delay the reply after too many wrong guesses.

    A delayed guess counts as wrong until its reply leaves, so that many guesses at once do not
    evade the limit. A guess that is answered at once counts after the comparison, and only if it
    was wrong: workers that compare in the same instant may each let one guess too many through.
    """
    name = normal(request.username, "username")
    peer, limit = waiter.peer, waiter.peer.verifying(name)
    asked = context.now
    delay_s = _delay_s(context, peer, name, limit)
    password, is_it = yield from _newest(context, peer, name)
    if context.now != asked:  # the answer has come later, and others have guessed meanwhile
        delay_s = _delay_s(context, peer, name, limit)
    valid = bool(_are_same(password, request.password) & is_it)
    context.note(peer, "verify", name, "valid" if valid else "wrong")
    reply = Recorded(messages.return_verify_password(valid, request.id), request.id)
    if delay_s or not valid:
        limit.charge(context.now)
    if not delay_s:
        return reply
    refund = limit.refund if valid else None
    return context.delays.add(waiter, request.id, reply, context.now + delay_s, refund)


def _delay_s(context: Context, peer: Peer, name: str, limit: Limit) -> float:
    """Return how many seconds the reply to a guess waits; raise `Unavailable` if it is refused."""
    delay_s = limit.delay_s(context.now)
    if delay_s is None:
        context.note_refusal(peer, "verify", name, "refused: too many were wrong")
        raise Unavailable("Too many passwords were wrong; wait some seconds.")
    return delay_s


def _are_same(password: str, given: str) -> bool:
    """Compare a password with a given one, in a time that does not depend on what is different."""
    return hmac.compare_digest(password.encode(), given.encode())


def _newest(context: Context, peer: Peer, name: str) -> Steps[tuple[str, bool]]:
    """Return a user's newest password and True, or some other password and False.

    An unknown name takes as long as a wrong password: another user's password is opened instead.
    """
    try:
        user, is_it = yield context.reader.find_or_decoy(peer.caller.book, name)
        if user is not None and context.lacks_key_of(user):
            yield from context.refreshed()
        found = None if user is None else _password_or_decoy(context, user, is_it)
    except Exception as error:
        refusal = refusal_of(error)
        context.note(peer, "verify", name, refusal.message)
        raise refusal from None
    return (context.vault.open_decoy() if found is None else found[0]), is_it


def _password_or_decoy(context: Context, user: UserRow, is_it: bool) -> tuple[str, int] | None:
    """Return a user's newest password; None for one that was altered, if it is not asked for."""
    try:
        return context.password(user, user.version)
    except DatabaseRefused:
        if is_it:
            raise
        return None


def password_history(context: Context, waiter: Waiter, request: PasswordHistory) -> Steps[bytes]:
    """Return the numbers and times of the kept versions, newest first, without passwords."""
    name = normal(request.username, "username")
    user: UserRow | None = yield context.reader.find(waiter.peer.caller.book, name)
    if user is None:
        raise UnknownUser
    older = [(each.version, each.saved_at_ms) for each in history.unpack(user.older)]
    versions = [(user.version, user.saved_at_ms), *reversed(older)]
    return messages.encode(
        "return_password_history",
        request.id,
        username=name,
        versions=[
            {"version": version, "time_saved": time_saved(saved_at_ms)}
            for version, saved_at_ms in versions
        ],
    )


def list_users(context: Context, waiter: Waiter, request: ListUsers) -> Steps[bytes]:
    """Return a page of users in the order of their names."""
    label = None if request.label is UNSET else normal(request.label, "label", LABEL_LENGTH_MAX)
    users, after = yield context.reader.page(
        waiter.peer.caller.book,
        composed(request.after),
        composed(request.prefix),
        label,
        request.limit,
    )
    return messages.encode(
        "return_users", request.id, users=[_listed(user) for user in users], after=after
    )


def _listed(user: Entry) -> dict[str, object]:
    return {
        "username": user.name,
        "labels": user.labels,
        "version": user.version,
        "time_saved": time_saved(user.saved_at_ms),
    }


def check_password(context: Context, waiter: Waiter, request: CheckPassword) -> Awaited:
    """Send the beginning of a password to the checker."""
    beginning = request.password[:CHECK_LENGTH_MAX]
    return context.checks.ask(waiter, beginning, request.id, context.now)


def status(context: Context, waiter: Waiter, request: Status) -> bytes:
    """Tell how the service is doing."""
    scoreboard = context.scoreboard
    since_ms, reason = scoreboard.outage
    failed_ms, failure = scoreboard.backup_failure
    until_ms = waiter.peer.caller.until_ms
    return messages.encode(
        "return_status",
        request.id,
        number_of_users=scoreboard.users,
        workers=scoreboard.workers,
        uptime_s=round(time.monotonic() - scoreboard.started_s, 1),
        parts=context.parts,
        write_error=REASONS[reason] if since_ms else UNSET,
        write_error_since=time_saved(since_ms) if since_ms else UNSET,
        token_expires=time_saved(until_ms) if until_ms else UNSET,
        backup_age_s=_age_s(scoreboard.backup_ms) if scoreboard.backup_ms else UNSET,
        backup_error=FAILURES[failure] if failed_ms else UNSET,
        backup_error_since=time_saved(failed_ms) if failed_ms else UNSET,
    )


def _age_s(at_ms: int) -> float:
    return round(max(time.time() - at_ms / 1000, 0.0), 1)
