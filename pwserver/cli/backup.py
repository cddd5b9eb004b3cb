"""The commands for a bad day: backups of the book, restoring one, and copies of the key file."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pwserver.cli import book, output, prompts
from pwserver.cli.admin import key
from pwserver.cli.book import DEFAULTS, STORE_DEFAULTS, Json, Store, Where
from pwserver.config import Settings, StoreSettings
from pwserver.errors import AdministrationRefused, ConfigError, ExitCode
from pwserver.protection import protect_memory
from pwserver.secret import Secret

# The modules of the service are loaded by the commands that need them: no client pays for them.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from workers.admin.restore import Restored

_File = Annotated[
    Path, Parameter(help="The file to write; or a folder, for a file named after the time.")
]
_What = Annotated[str, Parameter(help="The username; or, without a version, the backup's file.")]
_Version = Annotated[int | None, Parameter(help="The version, as `history` lists it.")]
_Copy = Annotated[Path, Parameter(help="The copy of the key file.")]


def backup(file: _File, /, *, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Copy the book to a file and verify the copy; the service may be running.

    Keys are not in the copy: `key export` makes a copy of them for a safe place.
    """
    from workers.admin.backup import NICENESS, back_up
    from workers.admin.passphrase import open_keyring
    from workers.admin.setup import owners_rights
    from workers.storage.sqlite.database import require_a_book
    from workers.storage.sqlite.validation import check_sqlite

    if settings.server:
        raise ConfigError(
            "a database on a PostgreSQL server is backed up by PostgreSQL's own tools: pg_dump, or "
            "pg_basebackup and an archive of its log. `pwserver key export FILE` makes a copy of "
            "the keys, which are not in it."
        )
    protect_memory()
    check_sqlite()
    with owners_rights(settings):
        require_a_book(settings.path)
        keyring = open_keyring(settings)
        os.nice(NICENESS)
        reserve_bytes = Settings.disk_reserve_mib * 1024 * 1024
        with output.stages() as progress:
            made = back_up(settings, keyring, file, progress, reserve_bytes)
    output.said(
        f"{made.path} has {made.users:,} users and is verified. Keys are not in it: it needs "
        f"{_keys(made.keys)} of {settings.key_path}. `pwserver key export FILE` makes a copy of "
        "the keys for a safe place.",
        {
            "file": str(made.path),
            "users": made.users,
            "bytes": made.size_bytes,
            "needs_keys": made.keys,
            "took_s": round(made.took_s, 1),
        },
        as_json=as_json,
    )
    return ExitCode.OK


def restore(
    what: _What,
    /,
    version: _Version = None,
    *,
    as_json: Json = False,
    settings: Where = DEFAULTS,
    files: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Restore an older version of a user's password; or the whole book, from a backup's file.

    A backup is verified first. No service may be running on the book, which is kept under another
    name. May be stopped, and run again to go on.
    """
    if version is not None:
        return book.restore(what, version, as_json=as_json, settings=settings)
    return _restore_book(Path(what), files, as_json)


def _restore_book(file: Path, settings: StoreSettings, as_json: bool) -> ExitCode:
    from pwserver.server.instance import Instance
    from workers.admin import restore as restoring
    from workers.admin.passphrase import open_keyring
    from workers.admin.setup import owners_rights
    from workers.storage.stores import store_of

    if settings.server:
        raise ConfigError(
            "a database on a PostgreSQL server is restored by PostgreSQL's own tools: pg_restore, "
            "or a base backup and the archive of its log. To restore an older version of a user's "
            "password, add --version."
        )
    if not os.path.lexists(file):
        raise ConfigError(
            f"there is no file {file}. To restore an older version of a user's password, add "
            "--version."
        )
    protect_memory()
    store = store_of(settings)
    settings.check_files()
    with owners_rights(settings):
        store.check_can_be_made()
        if store.is_in_use():
            raise AdministrationRefused(
                f"a service runs on {settings.path}: stop it first (`pwserver stop`). Nothing was "
                "changed."
            )
        keyring = open_keyring(settings)
        with Instance(settings.path), output.stages() as progress:
            restored = restoring.restore(settings, keyring, file, progress)
    found = restored.found
    output.said(
        _sentence(file, settings, restored),
        {
            "file": str(file),
            "users": found.users,
            "newest": _time(found.newest_ms),
            "needs_keys": found.keys,
            "kept": restored.kept and str(restored.kept),
            "changed_since": restored.changed,
            "rotate_to": restored.rotate_to or None,
        },
        as_json=as_json,
    )
    return ExitCode.OK


def _sentence(file: Path, settings: StoreSettings, restored: "Restored") -> str:
    """Say what was restored, and what that means."""
    found = restored.found
    said = [f"{settings.path} is {file} now, with {found.users:,} users"]
    if newest := _time(found.newest_ms):
        said[0] += f", the newest saved at {newest:%Y-%m-%d %H:%M:%S} UTC"
    said[0] += "."
    if restored.kept:
        said.append(f"The book that it replaces is kept as {restored.kept}.")
    said.append(f"Keys are not in a backup: this one needs {_keys(found.keys)}.")
    if restored.changed:
        said.append(
            f"Changed after the backup was made: {', '.join(restored.changed)}. What was revoked "
            "since stays revoked, so they may do nothing until `pwserver app rotate` gives them "
            "new tokens."
        )
    if restored.rotate_to:
        said.append(
            f"A newer key was used since: run `pwserver key rotate` to seal everything with key "
            f"{restored.rotate_to} again."
        )
    return " ".join(said)


def _keys(numbers: list[int]) -> str:
    return f"key{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _time(ms: int) -> datetime | None:
    return datetime.fromtimestamp(ms // 1000, UTC) if ms else None


@key.command(name="export")
def export_keys(
    file: _Copy, /, *, as_json: Json = False, settings: Store = STORE_DEFAULTS
) -> ExitCode:
    """Write a copy of the key file, sealed with a passphrase, for a safe place.

    The passphrase is typed twice, or read from standard input. Nobody can recover one that is lost.
    """
    from workers.admin import key_copies
    from workers.admin.setup import owners_rights

    protect_memory()
    with owners_rights(settings):
        passphrase = Secret(prompts.password(twice=True, what="passphrase"))
        keyring = key_copies.export_keys(settings, file, passphrase)
    numbers = sorted(keyring.keys)
    output.said(
        f"{file} has {_keys(numbers)}, sealed with the passphrase. Keep it apart from the backups, "
        "and the passphrase apart from it.",
        {"file": str(file), "keys": numbers},
        as_json=as_json,
    )
    return ExitCode.OK


@key.command(name="import")
def import_keys(
    file: _Copy, /, *, as_json: Json = False, settings: Store = STORE_DEFAULTS
) -> ExitCode:
    """Put the keys of such a copy into the key file; a key that is there is never replaced.

    The passphrase of the copy is typed, or read from standard input.
    """
    from workers.admin import key_copies
    from workers.admin.setup import owners_rights

    def passphrase() -> Secret[str]:
        return Secret(prompts.password(what="passphrase"))

    protect_memory()
    with owners_rights(settings):
        added = key_copies.import_keys(settings, file, passphrase)
    output.said(
        f"{_keys(added)[:1].upper()}{_keys(added)[1:]} of {file} went into {settings.key_path}, "
        "which `pwserver key protect` seals with a passphrase."
        if added
        else f"{settings.key_path} had all keys of {file} already; nothing was changed.",
        {"key_file": str(settings.key_path), "added": added},
        as_json=as_json,
    )
    return ExitCode.OK


COMMANDS: tuple[Callable[..., ExitCode], ...] = (backup, restore)
"""In the order in which `pwserver --help` lists them."""
