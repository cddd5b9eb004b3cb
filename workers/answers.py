"""The answers that are read from the book and change nothing in it."""

import hmac
import platform
import time

import apsw
import msgspec
from msgspec import UNSET

from pwserver import __version__, protocol
from pwserver.config import CHECK_LENGTH_MAX
from pwserver.errors import UnknownUser, UnknownVersion
from pwserver.protocol import (
    LABEL_LENGTH_MAX,
    CheckPassword,
    GetPassword,
    ListUsers,
    PasswordHistory,
    Status,
    VerifyPassword,
)
from workers import history
from workers.batches import Awaited, Waiter
from workers.context import Context
from workers.models import time_saved
from workers.names import composed, normal
from workers.reading import Entry


def get_password(context: Context, waiter: Waiter, request: GetPassword) -> bytes:
    """Return a password: the newest version, or the one that is asked for."""
    name = normal(request.username, "username")
    user = context.reader.find(waiter.book, name)
    if user is None:
        raise UnknownUser
    version = user.version if request.version is UNSET else request.version
    found = context.password(user, version)
    if found is None:
        raise UnknownVersion
    password, saved_at_ms = found
    return protocol.encode(
        "return_password",
        request.id,
        username=name,
        password=password,
        version=version,
        time_saved=time_saved(saved_at_ms),
    )


def verify_password(context: Context, waiter: Waiter, request: VerifyPassword) -> bytes:
    """Tell whether a password is the newest of a user.

    An unknown name costs what a wrong password costs: another user's is opened and compared for it.
    """
    name = normal(request.username, "username")
    user, is_it = context.reader.find_or_decoy(waiter.book, name)
    found = None if user is None else context.password(user, user.version)
    password = context.vault.open_decoy() if found is None else found[0]
    same = hmac.compare_digest(password.encode(), request.password.encode())
    return protocol.return_verify_password(same & is_it, request.id)


def password_history(context: Context, waiter: Waiter, request: PasswordHistory) -> bytes:
    """Return which versions are kept, newest first, and since when; no values."""
    name = normal(request.username, "username")
    user = context.reader.find(waiter.book, name)
    if user is None:
        raise UnknownUser
    older = [(each.version, each.saved_at_ms) for each in history.unpack(user.older)]
    versions = [(user.version, user.saved_at_ms), *reversed(older)]
    return protocol.encode(
        "return_password_history",
        request.id,
        username=name,
        versions=[
            {"version": version, "time_saved": time_saved(saved_at_ms)}
            for version, saved_at_ms in versions
        ],
    )


def list_users(context: Context, waiter: Waiter, request: ListUsers) -> bytes:
    """Return a page of users in the order of their names."""
    label = None if request.label is UNSET else normal(request.label, "label", LABEL_LENGTH_MAX)
    users, after = context.reader.page(
        waiter.book, composed(request.after), composed(request.prefix), label, request.limit
    )
    return protocol.encode(
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
    """Have the checker look at the beginning of a password."""
    beginning = request.password[:CHECK_LENGTH_MAX]
    return context.checks.ask(waiter, beginning, request.id, context.now)


def status(context: Context, waiter: Waiter, request: Status) -> bytes:
    """Tell how the service is doing."""
    scoreboard = context.scoreboard
    return protocol.encode(
        "return_status",
        request.id,
        number_of_users=scoreboard.users,
        workers=scoreboard.workers,
        uptime_s=round(time.monotonic() - scoreboard.started_s, 1),
        parts=_PARTS,
    )


_PARTS = {
    "pwserver": __version__,
    "python": platform.python_version(),
    "sqlite": apsw.sqlite_lib_version(),
    "apsw": apsw.apsw_version(),
    "msgspec": msgspec.__version__,
}
