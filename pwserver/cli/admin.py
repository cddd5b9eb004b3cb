"""The commands of the administrator: applications, keys, and a check of everything.

They work on the files themselves, whether the service runs or not, and may be used by whoever may
use the files. What they show on standard output is what a program wants to have, a new token above
all; what only a person wants to know goes to standard error.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from pwserver.cli import output, prompts
from pwserver.cli.book import STORE_DEFAULTS, Json, Store, Yes
from pwserver.config import StoreSettings, duration_s
from pwserver.errors import (
    AdministrationRefused,
    ConfigError,
    DatabaseRefused,
    ExitCode,
)
from pwserver.protection import protect_memory
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS, Right

# The modules of the service are loaded by the commands that need them: no client pays for them.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from workers.admin.administration import Administration
    from workers.book.models import ApplicationRow

_Name = Annotated[str, Parameter(help="The application's name.")]

_From = Annotated[str, Parameter(name="--from")]

GRACE_S = 86_400.0

NEVER = "never"
NONE = "none"

QUOTA_MAX = 2**31 - 1
_LIFETIME_S_MAX = 36_525 * 86_400

application = App(
    name="app",
    sort_key=101,
    version_flags=(),
    help="Applications: who may use the service, and for what.",
)
key = App(
    name="key", sort_key=102, version_flags=(), help="The keys that passwords are sealed with."
)
APPS = (application, key)


# --- Applications. ---


@application.command(name="add")
def add_application(
    name: _Name,
    /,
    *,
    may: str,
    common: bool = False,
    expires: str = NEVER,
    from_: _From = "",
    certificate: str = "",
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Register an application and print its token, which is shown only now.

    Parameters
    ----------
    may
        What it may do: one or more of save, count, get, verify, list, delete, between commas.
    common
        Let it use the common book, where all without a token save, and not a book of its own.
    expires
        How long its token is good, such as 90d, 12h or 30m, or never.
    from_
        The networks that it may come from, such as 10.0.0.0/8 or unix, between commas.
    certificate
        A client certificate (PEM) that stands for it as well, by its public key.
    """
    rights, lifetime_s, networks = _rights(may), _seconds(expires), _networks(from_)
    key_hash = _key_hash(certificate)
    with administrating(settings, make=True) as files:
        token = files.add(
            name,
            rights,
            common=common,
            lifetime_s=lifetime_s,
            networks=networks,
            certificate=key_hash,
        )
    _print_token(name, token, "is registered", as_json)
    return ExitCode.OK


@application.command(name="list")
def list_applications(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """List the applications: what each may do, and whether and how long its token is good."""
    from workers.auth.applications import rights_of

    with administrating(settings) as files:
        rows = [(row, files.is_old_copy(row)) for row in files.applications()]
    output.records(
        (
            {
                "name": row.name,
                "may": rights_of(row),
                "book": "its own" if row.book else "common",
                "state": "an old copy" if old else _state(row),
                "expires": _time(row.expires_ms),
                "from": row.networks.split(),
                "users_max": row.users_max or None,
                "saves_per_s": row.saves_per_s or None,
                "connections_max": row.connections_max or None,
                "old_token_until": _time(row.previous_until_ms),
                "added": _time(row.created_at_ms),
                "certificate": row.certificate and row.certificate.hex(),
            }
            for row, old in rows
        ),
        as_json=as_json,
        least=(
            "certificate",
            "added",
            "old_token_until",
            "connections_max",
            "saves_per_s",
            "users_max",
            "from",
        ),
    )
    return ExitCode.OK


@application.command(name="rotate")
def rotate_token(
    name: _Name,
    /,
    *,
    grace_s: float = GRACE_S,
    now: bool = False,
    expires: str = "",
    certificate: str = "",
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Give an application a new token and print it; one that was revoked is active again.

    Parameters
    ----------
    grace_s
        How long the old token and the old certificate stay good, in seconds.
    now
        Let the old token and the old certificate be good no more, not even for a moment.
    expires
        How long the new token is good, such as 90d, or never. Not set: as long as the old one was.
    certificate
        A client certificate (PEM) that stands for it from now on. Not set: none does.
    """
    if not 0 <= grace_s <= 366 * 86_400:
        raise ConfigError("grace-s must be from 0 to a year, in seconds.")
    lifetime_s = _seconds(expires) if expires else None
    key_hash = _key_hash(certificate)
    with administrating(settings) as files:
        token = files.rotate(
            name, 0 if now else grace_s, lifetime_s=lifetime_s, certificate=key_hash
        )
        row = files.application(name)
    if row.previous_certificate is not None and row.certificate is None:
        output.tell(
            "Its certificate ends with the old token; `app set --certificate` gives it one again."
        )
    _print_token(name, token, "has a new token", as_json)
    return ExitCode.OK


@application.command(name="revoke")
def revoke_application(
    name: _Name, /, *, as_json: Json = False, settings: Store = STORE_DEFAULTS
) -> ExitCode:
    """Take an application's token and certificate away, on open connections too.

    Its passwords stay.
    """
    with administrating(settings) as files:
        files.revoke(name)
    output.said(f"Application {name} is revoked.", {"name": name, "revoked": True}, as_json=as_json)
    return ExitCode.OK


@application.command(name="set")
def set_application(
    name: _Name,
    /,
    *,
    may: str = "",
    from_: _From = "",
    certificate: str = "",
    users_max: int | None = None,
    saves_per_s: int | None = None,
    connections_max: int | None = None,
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Change what an application may do, on open connections too; its token stays.

    Parameters
    ----------
    may
        All that it may do from now on: one or more of save, count, get, verify, list, delete,
        between commas.
    from_
        All networks that it may come from from now on, between commas; none: from anywhere.
    certificate
        The client certificate (PEM) that stands for it from now on; none: none does.
    users_max
        The most users in its own book; 0 for any number.
    saves_per_s
        The most saves a second, over all its connections; 0 for any number.
    connections_max
        The most connections that it has at once; 0 for any number.
    """
    from workers.admin.administration import in_order

    columns: dict[str, Any] = {}
    said: dict[str, Any] = {}
    if may:
        said["may"] = _rights(may)
        columns["may"] = in_order(said["may"])
    if from_:
        columns["networks"] = "" if from_ == NONE else _networks(from_)
        said["from"] = columns["networks"].split()
    if certificate:
        key_hash = None if certificate == NONE else _key_hash(certificate)
        columns["certificate"] = key_hash
        said["certificate"] = key_hash and key_hash.hex()
    quotas = {
        "users_max": users_max,
        "saves_per_s": saves_per_s,
        "connections_max": connections_max,
    }
    for quota, number in quotas.items():
        if number is not None:
            columns[quota] = _quota(quota, number)
            said[quota] = number or None
    if not columns:
        raise ConfigError("nothing is to be changed: give one of the flags.")
    with administrating(settings) as files:
        files.set_columns(name, **columns)
    output.said(_sentence(name, said), {"name": name, **said}, as_json=as_json)
    return ExitCode.OK


def _quota(name: str, number: int) -> int:
    if not 0 <= number <= QUOTA_MAX:
        flag = name.replace("_", "-")
        raise ConfigError(f"{flag} must be from 0, which is no limit, to {QUOTA_MAX:,}.")
    return number


def _sentence(name: str, said: dict[str, Any]) -> str:
    """Say what was set of an application."""
    parts = []
    for what, value in said.items():
        if what == "may":
            parts.append(f"may {', '.join(value)}")
        elif what == "from":
            parts.append(f"may come from {', '.join(value) or 'anywhere'}")
        elif what == "certificate":
            parts.append(f"has {'a' if value else 'no'} certificate")
        else:
            flag = what.replace("_", "-")
            parts.append(f"has {flag} {value:,}" if value else f"has no {flag}")
    return f"Application {name} {', '.join(parts)}."


@application.command(name="remove")
def remove_application(
    name: _Name,
    /,
    *,
    yes: Yes = False,
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Remove an application and its own book: all users in it, with all their passwords.

    The common book stays. May be stopped, and run again to go on.
    """
    from workers.admin import administration

    with administrating(settings) as files:
        number = files.users_of(name)
    if not yes:
        prompts.confirm(
            f"Remove the application {name!r} and the {number:,} users of its own book?"
        )
    with output.progress("Removing") as progress:
        number = administration.remove(settings, name, progress)
    output.said(
        f"Application {name} is removed, with {number:,} users.",
        {"name": name, "removed": True, "users": number},
        as_json=as_json,
    )
    return ExitCode.OK


def _rights(may: str) -> list[Right]:
    words = may.replace(",", " ").split()
    rights = [right for right in RIGHTS if right in words]
    if not words or len(rights) != len(set(words)):
        raise ConfigError(f"may must be one or more of {', '.join(RIGHTS)}, between commas.")
    return rights


def _seconds(duration: str) -> float:
    """Return a duration such as 90d in seconds; 0 is for ever."""
    if duration == NEVER:
        return 0
    seconds = duration_s(duration)
    if not 1 <= seconds <= _LIFETIME_S_MAX:
        raise ConfigError(
            f"expires is {duration!r}; it must be a number of s, m, h, d or w, such as 90d, up to "
            f"a hundred years, or {NEVER}."
        )
    return seconds


def _networks(text: str) -> str:
    """Return networks, between commas, as an application's row has them."""
    from pwserver.networks import stored

    return stored(text.replace(",", " ").split())


def _key_hash(certificate: str) -> bytes | None:
    """Return what stands for a certificate's file in an application's row."""
    if not certificate:
        return None
    from workers.tls.client_certificates import read_key_hash

    return read_key_hash(certificate)


def _print_token(name: str, token: Secret[str], what: str, as_json: bool) -> None:
    if not as_json:
        output.tell(f"Application {name} {what}. Its token is shown only now:")
    output.plain([token.reveal()], {"name": name, "token": token.reveal()}, as_json=as_json)


# --- Keys. ---


@key.command(name="list")
def list_keys(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """List the keys, and how many passwords are sealed with each."""
    from workers.admin import rotation

    with administrating(settings) as files:
        sealing, uses = files.sealing_key(), rotation.key_uses()
        numbers = sorted(files.keyring.keys)
    output.records(
        (
            {
                "key": number,
                "state": "seals" if number == sealing else "opens" if number in uses else "unused",
                "passwords": uses.get(number, 0),
            }
            for number in numbers
        ),
        as_json=as_json,
    )
    return ExitCode.OK


@key.command(name="add")
def add_key(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Put a new key into the key file. Nothing is sealed with it before `key rotate`."""
    from workers.admin import rotation

    with administrating(settings) as files:
        number = rotation.add_key(files)
    output.said(
        f"Key {number} was added to {settings.key_path}. Keep a copy of that file in a safe place; "
        "then run `pwserver key rotate`.",
        {"key": number, "added": True},
        as_json=as_json,
    )
    return ExitCode.OK


@key.command(name="rotate")
def rotate_keys(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Seal every password again with the newest key. May be stopped, and run again to go on."""
    from workers.admin import rotation
    from workers.storage.stores import store_of

    in_use = store_of(settings).is_in_use()
    with output.progress("Resealing") as progress, administrating(settings) as files:
        refused = rotation.rotate(files, progress, beside_service=in_use)
        number = files.keyring.newest.id
    if refused:
        raise AdministrationRefused(
            f"{len(refused)} passwords were altered and do not open, the first of user "
            f"{refused[0]}; they were left as they are. All others are sealed with key {number}."
        )
    output.said(
        f"Every password is sealed with key {number}.",
        {"key": number, "seals": "everything"},
        as_json=as_json,
    )
    return ExitCode.OK


@key.command(name="retire")
def retire_key(
    number: Annotated[int, Parameter(help="The key, as `key list` has it.")],
    /,
    *,
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Remove a key that nothing is sealed with any more."""
    from workers.admin import rotation

    with administrating(settings) as files:
        rotation.retire(files, number)
    output.said(
        f"Key {number} is retired. Backups of the database made before need it still.",
        {"key": number, "retired": True},
        as_json=as_json,
    )
    return ExitCode.OK


@key.command(name="protect")
def protect_keys(
    *, remove: bool = False, as_json: Json = False, settings: Store = STORE_DEFAULTS
) -> ExitCode:
    """Seal the key file with a passphrase, which every start of the service needs from then on.

    The passphrase is typed, or read from standard input. A service that runs goes on, but it must
    be started again before it can use keys that are added later.

    Parameters
    ----------
    remove
        Write the key file without a passphrase again.
    """
    from workers.admin import rotation

    with administrating(settings) as files:
        passphrase = None if remove else Secret(prompts.password(twice=True, what="passphrase"))
        rotation.protect(files, passphrase)
    how = "without a passphrase" if remove else "sealed with the passphrase"
    output.said(
        f"{settings.key_path} is {how}. Copies of it that were made before are as they were.",
        {"key_file": str(settings.key_path), "protected": not remove},
        as_json=as_json,
    )
    return ExitCode.OK


# --- The whole book. ---


def check(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Look at every page, open every password, see who may use the files; exit with 5 if need be.

    Where all is in order and the disk has no room for more, exit with 6.

    Changes nothing, whether the service runs or not. The audit record has its own `audit verify`.
    """
    from workers.admin.check import Examination, check_room
    from workers.admin.setup import owners_rights
    from workers.storage.stores import store_of

    protect_memory()
    store = store_of(settings)
    findings: list[str] = []
    with output.progress("Checking") as progress, owners_rights(settings):
        store.require_a_book()
        examination = Examination(settings, at_rest=not store.is_in_use())
        for finding in examination.findings(progress):
            findings.append(finding)
            output.tell(finding)
    users, found = examination.users, examination.applications
    about = {"users": users, "applications": found, "findings": findings}
    if findings:
        if as_json:
            output.record(about, as_json=True)
        raise DatabaseRefused(
            f"{settings.book_name} is not in order, as said above. Nothing was changed."
        )
    output.plain([f"{users} users, {found} applications: all in order."], about, as_json=as_json)
    check_room(settings.path.absolute().parent)
    return ExitCode.OK


# --- What they share. ---


@contextmanager
def administrating(settings: StoreSettings, *, make: bool = False) -> "Iterator[Administration]":
    """Give the files of the service, checked; made where there are none and `make`."""
    from workers.admin.administration import administration
    from workers.admin.setup import owners_rights, prepare
    from workers.storage.stores import store_of

    protect_memory()
    store = store_of(settings)
    with owners_rights(settings):
        if not make:
            store.require_a_book()
        if not store.is_in_use():
            try:
                _, made = prepare(settings)
            except DatabaseRefused:
                if not store.is_in_use():
                    raise
                made = []  # a service has just been started, which does the same
            for sentence in made:
                output.tell(sentence)
        with administration(settings) as files:
            try:
                yield files
            finally:
                for sentence in files.unrecorded:
                    output.tell(sentence)


def _state(row: "ApplicationRow") -> str:
    from workers.storage.operations import REMOVED

    if row.may == REMOVED:
        return "being removed"
    if row.token_hash is None:
        return "revoked"
    return "expired" if row.expires_ms and row.expires_ms <= time.time() * 1000 else "active"


def _time(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms // 1000, UTC) if ms else None
