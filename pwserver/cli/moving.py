"""The commands that move passwords in and out: `import` and `export`.

They use a running service with a token, or the files where `--database` is given.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pwserver.cli import output, prompts
from pwserver.cli.book import DEFAULTS, FLAT, Json, Where, Yes, client
from pwserver.config import ClientSettings, Settings, StoreSettings
from pwserver.errors import AdministrationRefused, ConfigError, ExitCode
from pwserver.moving.books import Book, BookOfService
from pwserver.moving.exporting import FormatName
from pwserver.moving.naming import Named
from pwserver.protection import protect_memory

# What only these commands need is loaded by them: no other command pays for it.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from pwserver.moving.entries import Export
    from pwserver.moving.importing import Fate, Report

_SHOWN_MAX = 100
"""Lines of which something is said; with `--json` all are."""

_WOULD: "dict[Fate, str]" = {
    "saved": "would be saved",
    "overwritten": "would be saved over what is there",
}
"""What a dry run says for a fate."""


@dataclass(frozen=True, kw_only=True)
class Files(StoreSettings):
    """The files to work on. Only a flag names the database, so that no file of settings does."""

    database: Annotated[str, Parameter(show_env_var=False)] = field(
        default="",
        metadata={
            "help": "Work on the files of this database, while no service runs on it. Not set: use "
            "the running service."
        },
    )
    versions_kept: int = field(
        default=Settings.versions_kept,
        metadata={"help": "With --database: the older versions of a password to keep."},
    )

    def __post_init__(self) -> None:
        """Check the values."""
        if self.database:
            super().__post_init__()
        if self.versions_kept < 0:
            raise ConfigError("versions_kept must be 0 or more.")


_Files = Annotated[Files, FLAT]
_FILES = Files()

_Application = Annotated[
    str,
    Parameter(
        help="With --database: the application whose book it is. Not given: the common book."
    ),
]


def import_(  # cyclopts calls it `import`
    file: Annotated[
        Path, Parameter(help="The file; - is standard input.", allow_leading_hyphen=True)
    ],
    /,
    *,
    name: str = "",
    overwrite: bool = False,
    dry_run: bool = False,
    application: _Application = "",
    as_json: Json = False,
    settings: Where = DEFAULTS,
    files: _Files = _FILES,
) -> ExitCode:
    """Save the passwords of a file that another password manager has exported.

    Reads CSV of Bitwarden, KeePassXC, Chrome, Firefox and 1Password, JSON of Bitwarden, and what
    `export` writes. A user that is there keeps its password. Run it again after an interruption.
    Exit with 1 if something could not be saved.

    Parameters
    ----------
    name
        How names are made of {name}, {login}, {host} and {folder}. Not given: {name}/{login}.
    overwrite
        Save over the password of a user that is there, as its newest version.
    dry_run
        Save nothing, and show what would be done.
    """
    from pwserver.moving.importing import Import
    from pwserver.moving.naming import Template
    from pwserver.moving.reading import STANDARD_INPUT, read

    template = Template(name) if name else None
    export = read(file)
    run = Import(export, template, overwrite=overwrite, dry_run=dry_run)
    with (
        contextlib.nullcontext() if dry_run else _told_if_interrupted(file, run.report),
        _book(settings, files, application, "import", make=not dry_run) as book,
        output.progress("Looking" if dry_run else "Importing") as progress,
    ):
        rows = [_row(each, fate) for each, fate in run.run(book, progress) if dry_run]
    report = run.report
    if dry_run:
        output.records(rows, as_json=as_json, least=("labels",))
    if not as_json:
        _tell_findings(report)
    summary, record = _summary(file, report, dry_run=dry_run), _record(file, report)
    if dry_run:
        output.said(summary, record, as_json=as_json)
    else:
        output.done(summary, record, as_json=as_json)
        if not as_json and str(file) != STANDARD_INPUT:
            output.tell(f"{file} still has the passwords in the clear: delete it when all is well.")
    return ExitCode.FAILED if report.incomplete else ExitCode.OK


def export(
    file: Annotated[Path, Parameter(help="The file to make.")],
    /,
    *,
    format_: Annotated[FormatName, Parameter(name="--format")] = "jsonl",
    yes: Yes = False,
    application: _Application = "",
    as_json: Json = False,
    settings: Where = DEFAULTS,
    files: _Files = _FILES,
) -> ExitCode:
    """Write all users with their newest passwords, in the clear, into a file for you alone.

    Needs a token that may list and get. Exit with 1 if a password was not given out.

    Parameters
    ----------
    format_
        JSON lines, which `import` reads, or the CSV of Bitwarden or KeePassXC.
    """
    from pwserver.moving import exporting

    replaces = exporting.check_place(file)
    if not yes:
        more = ", and replace what is in it" if replaces else ""
        prompts.confirm(f"Write every password of the book in the clear into {file}{more}?")
    with (
        exporting.new_file(file, replaces=replaces) as opened,
        _book(settings, files, application, "export", make=False) as book,
        output.progress("Exporting") as progress,
    ):
        exported = exporting.export(book, opened, format_, progress)
    for username in exported.refused[:_SHOWN_MAX]:
        output.tell(f"The password of {username!r} was not given out, and is not in the file.")
    record = {"file": str(file), "format": format_, **asdict(exported)}
    lost = exported.labels_left_out
    more = f" {lost:,} labels are left out: the format has one for each." if lost else ""
    output.done(
        f"{_number(exported.users, 'password')} in the clear in {file}, which you alone may read."
        f"{more} Delete it as soon as it has served.",
        record,
        as_json=as_json,
    )
    return ExitCode.FAILED if exported.refused else ExitCode.OK


# --- The book. ---


@contextmanager
def _book(
    settings: ClientSettings, files: Files, application: str, command: str, *, make: bool
) -> Iterator[Book]:
    """Give the book of a running service, or the one in the files, made if there is none."""
    if files.database:
        with _book_in_files(files, application, command, make=make) as book:
            yield book
        return
    if application:
        raise ConfigError("application is for --database; with a service, the token says whose.")
    with client(settings) as connected:
        yield BookOfService(connected, settings.timeout_s)


@contextmanager
def _book_in_files(files: Files, name: str, command: str, *, make: bool) -> Iterator[Book]:
    from workers.admin.administration import administration
    from workers.admin.book_at_rest import book_at_rest
    from workers.admin.setup import owners_rights, prepare
    from workers.book.models import COMMON_BOOK
    from workers.storage.stores import store_of

    if files.server:
        raise ConfigError(
            f"a database on a PostgreSQL server has its {command} through a service: start one on "
            "it, leave out --database, and use a token."
        )
    protect_memory()
    store = store_of(files)
    with owners_rights(files):
        if not make:
            store.require_a_book()
        if store.is_in_use():
            raise AdministrationRefused(
                f"a service runs on {files.path}. Leave out --database and use a token, or stop it."
            )
        keyring, made = prepare(files, to_serve=True)
        for sentence in made:
            output.tell(sentence)
        book, users_max = COMMON_BOOK, 0
        with administration(files) as administrator:
            if name:
                row = administrator.application(name)
                book, users_max = row.book, row.users_max
            administrator.record("administration", command, name or None)
        with book_at_rest(files, keyring, book, users_max, files.versions_kept) as opened:
            yield opened


# --- What is said. ---


@contextmanager
def _told_if_interrupted(file: Path, report: "Report") -> Iterator[None]:
    try:
        yield
    except BaseException:
        if report.fates:
            output.tell(
                f"{file} was not imported to the end: {_fates(report)}. Run it again to go on; "
                "what is there is not saved twice."
            )
        raise


def _row(named: Named, fate: "Fate") -> output.Record:
    return {
        "line": named.line,
        "name": named.name,
        "labels": [*named.labels],
        "result": _WOULD.get(fate, fate),
    }


def _tell_findings(report: "Report") -> None:
    found = sorted(report.findings)
    for each in found[:_SHOWN_MAX]:
        output.tell(f"{report.export.unit.capitalize()} {each.line} {each.what}")
    if (more := len(found) - _SHOWN_MAX) > 0:
        output.tell(f"... and {more:,} more; --json has all.")


def _summary(file: Path, report: "Report", *, dry_run: bool) -> str:
    export = report.export
    would = "A dry run, which has saved nothing; without --dry-run: " if dry_run else ""
    sentences = [f"{would}{file} ({export.format}): {_fates(report)}."]
    if duplicates := report.count("duplicate"):
        sentences.append(f"{_number(duplicates, 'duplicate')} in the file.")
    if broken := report.count("broken"):
        sentences.append(f"{_number(broken, export.unit)} cannot be saved.")
    if left_out := _left_out(export):
        words = ", ".join(f"{kind} ({number:,})" for kind, number in left_out.items())
        sentences.append(f"Left out, because a book does not keep them: {words}.")
    return " ".join(sentences)


def _fates(report: "Report") -> str:
    fates = report.fates
    parts = [f"{fates['saved']:,} saved"]
    if fates["overwritten"]:
        parts.append(f"{fates['overwritten']:,} saved over what was there")
    parts.append(f"{fates['already there']:,} already there")
    parts.append(_number(fates["conflict"], "conflict"))
    return ", ".join(parts)


def _left_out(export: "Export") -> dict[str, int]:
    return {kind: number for kind, number in sorted(export.left_out.items()) if number}


def _record(file: Path, report: "Report") -> dict[str, Any]:
    fates = report.fates
    return {
        "file": str(file),
        "format": report.export.format,
        "saved": fates["saved"],
        "overwritten": fates["overwritten"],
        "already_there": fates["already there"],
        "conflicts": fates["conflict"],
        "duplicates": report.count("duplicate"),
        "broken": report.count("broken"),
        "left_out": _left_out(report.export),
        "findings": [each._asdict() for each in sorted(report.findings)],
    }


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


COMMANDS: tuple[Callable[..., ExitCode], ...] = (import_, export)
"""In the order in which `pwserver --help` lists them."""
