"""The command `move`: a whole book from a file into PostgreSQL, or back."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pwserver.cli import output, prompts
from pwserver.cli.book import Json, Yes
from pwserver.config import StoreSettings
from pwserver.errors import ConfigError, ExitCode

# The modules of the service are loaded by the commands that need them: no client pays for them.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from workers.admin.move import Moved

_Source = Annotated[
    str, Parameter(help="The book: a file, or postgresql://USER@HOST/NAME without a password.")
]
_Destination = Annotated[
    str, Parameter(help="Where it is to be: such a database, which is empty or not there yet.")
]


def move(
    source: _Source,
    destination: _Destination = "",
    /,
    *,
    unmark: bool = False,
    yes: Yes = False,
    as_json: Json = False,
) -> ExitCode:
    """Move a whole book from a file into PostgreSQL, or back, while no service runs on it.

    Passwords stay sealed, and no key is needed. Everything is compared at the end; then the source
    is marked, and nothing uses it any more. Run it again after an interruption: it goes on.

    Parameters
    ----------
    unmark
        Let a SOURCE that was moved be used again as it was then.
    """
    here = StoreSettings(database=source)
    if unmark:
        if destination:
            raise ConfigError("--unmark is for one database, the one that was moved.")
        return _unmark(here, yes=yes, as_json=as_json)
    if not destination:
        raise ConfigError("name the destination as well: a file, or postgresql://USER@HOST/NAME.")
    return _move(here, StoreSettings(database=destination), as_json=as_json)


def _move(here: StoreSettings, there: StoreSettings, *, as_json: bool) -> ExitCode:
    from workers.admin.move import move
    from workers.storage.stores import movable_of

    if not here.server and not there.server:
        raise ConfigError(
            "both are files: `pwserver backup` makes a verified copy, and `restore` puts it in "
            "place."
        )
    if here.server == there.server:
        raise ConfigError("source and destination are the same database.")
    began_s = time.monotonic()
    with (
        _rights(here, there),
        _told_if_interrupted(),
        output.stages() as progress,
    ):
        moved = move(movable_of(here), movable_of(there), progress)
    output.said(
        _sentence(here, there, moved),
        {
            "source": here.book_name,
            "destination": there.book_name,
            "rows": moved.rows,
            "sha256": moved.digest,
            "files": [str(path) for path in _own_files(here)],
            "took_s": round(time.monotonic() - began_s, 1),
        },
        as_json=as_json,
    )
    return ExitCode.OK


def _unmark(here: StoreSettings, *, yes: bool, as_json: bool) -> ExitCode:
    from workers.storage.stores import movable_of

    if not yes:
        prompts.confirm(
            f"Use {here.book_name} again, without what was saved elsewhere since it was moved?"
        )
    with _rights(here):
        movable_of(here).unmark()
    output.said(
        f"{here.book_name} can be used again.", {"database": here.book_name}, as_json=as_json
    )
    return ExitCode.OK


@contextlib.contextmanager
def _rights(*databases: StoreSettings) -> Iterator[None]:
    """Run root's command with the rights of the owner of the file, if one of them is a file."""
    from workers.admin.setup import owners_rights

    with contextlib.ExitStack() as stack:
        for each in databases:
            if not each.server:
                stack.enter_context(owners_rights(each))
        yield


@contextlib.contextmanager
def _told_if_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        output.tell("It was interrupted. Run the same command again, and it goes on.")
        raise


def _sentence(here: StoreSettings, there: StoreSettings, moved: "Moved") -> str:
    """Say what was moved, and what has to go along by other means."""
    rows = moved.rows
    said = [
        f"{there.book_name} is the book now, with {rows['user']:,} users, {rows['application']:,} "
        f"applications and {rows['request']:,} remembered requests. Every row was compared; their "
        f"SHA-256 is {moved.digest}.",
        f"{here.book_name} is marked as moved, and nothing uses it any more; remove it once a "
        f"backup of {there.book_name} is made. `pwserver move --unmark` takes the mark away.",
    ]
    own = ", ".join(map(str, _own_files(here)))
    if own:
        said.append(f"These files are not in a database, and belong to the book: {own}.")
    if here.path.with_suffix("") != there.path.with_suffix(""):
        said.append(
            f"The key file has to be {there.key_path}, or be named with --key-file, on every host; "
            f"the revisions and the audit record go on from {there.revisions_path} and "
            f"{there.audit_path}, if they are copied there."
        )
    return " ".join(said)


def _own_files(here: StoreSettings) -> list[Path]:
    """Return the files that are beside a database and belong to the book."""
    paths = (here.key_path, here.revisions_path, here.audit_path, here.audit_head_path)
    return [path for path in paths if path.exists()]


COMMANDS: tuple[Callable[..., ExitCode], ...] = (move,)
"""In the order in which `pwserver --help` lists them."""
