"""The administrator's commands that read the audit record.

They read its files, whether the service runs or not, and change nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from pwserver.cli import output
from pwserver.cli.book import STORE_DEFAULTS, Json, Store
from pwserver.config import StoreSettings
from pwserver.errors import AuditRefused, ExitCode
from pwserver.protection import protect_memory
from workers.audit.actions import Action

# The modules of the service are loaded by the commands that need them: no client pays for them.
# ruff: noqa: PLC0415

_TRIES = 3
"""How often to verify a record that is rotated meanwhile."""

_Files = Annotated[
    Path,
    Parameter(help="Files of the record, the oldest first. None: the record and rotated files."),
]
audit = App(
    name="audit",
    sort_key=103,
    version_flags=(),
    help="The record of who read, changed or was denied what.",
)


@audit.command(name="show")
def show_audit(
    *files: _Files,
    user: str | None = None,
    application: str | None = None,
    action: Action | None = None,
    since: datetime | None = None,
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """List the lines of the record.

    Parameters
    ----------
    user
        Only lines about this username.
    application
        Only lines about what this application did, or what was done to it.
    action
        Only this action; put one of two words, such as "key change", in quotes.
    since
        Only lines since this time (UTC), such as 2026-11-01 or 2026-11-01T12:30.
    """
    from workers.audit.reading import Records

    with _readable(settings):
        records = Records(
            _files(settings, files),
            user=user,
            application=application,
            action=action,
            since=since and _in_utc(since),
        )
        output.records(
            (
                {
                    "n": record.n,
                    "time": record.time,
                    "application": record.application,
                    "address": record.address,
                    "action": record.action,
                    "user": record.user,
                    "outcome": record.outcome,
                    "more": _more(record.more, record.times),
                }
                for record in records
            ),
            as_json=as_json,
            least=("n", "more", "address"),
        )
    if records.skipped:
        output.tell(f"{records.skipped} lines are no records; `pwserver audit verify` says where.")
    return ExitCode.OK


@audit.command(name="verify")
def verify_audit(
    *files: _Files, as_json: Json = False, settings: Store = STORE_DEFAULTS
) -> ExitCode:
    """Check that nothing in the record was removed, edited, reordered or lost; exit with 5 if so.

    If files are named, the end of the record is checked only if the newest file is among them.
    """
    from workers.admin.passphrase import open_keyring
    from workers.admin.setup import owners_rights
    from workers.audit.verification import verify

    protect_memory()
    with owners_rights(settings), _readable(settings):
        key = open_keyring(settings).for_purpose("audit")
        for _ in range(_TRIES):
            paths = _files(settings, files)
            is_whole = not files or settings.audit_path in paths
            head_path = settings.audit_head_path if is_whole else None
            verdict = verify(paths, head_path, key, are_all=not files)
            if not verdict.findings or paths == _files(settings, files):
                break  # otherwise the record was rotated meanwhile
    for finding in (*verdict.findings, *verdict.losses):
        output.tell(str(finding))
    for limit in verdict.limits:
        output.tell(limit)
    about = {
        "records": verdict.records,
        "first": verdict.first,
        "last": verdict.last,
        "genuine": verdict.is_genuine,
        "lost": verdict.lost,
        "findings": [*map(str, verdict.findings)],
    }
    if verdict.findings or verdict.lost:
        if as_json:
            output.record(about, as_json=True)
        if verdict.findings:
            raise AuditRefused("the audit record is not as it was written.")
        raise AuditRefused(
            f"{verdict.lost} records could not be written; the {verdict.records} others are all "
            "genuine."
        )
    sentence = f"{verdict.records} records, {verdict.first} to {verdict.last}: all genuine."
    output.plain([sentence], about, as_json=as_json)
    return ExitCode.OK


def _files(settings: StoreSettings, named: Sequence[Path]) -> list[Path]:
    from workers.audit.reading import record_files

    if named:
        return list(named)
    found = record_files(settings.audit_path)
    if found.compressed:
        output.tell(f"Left out, because compressed: {', '.join(map(str, found.compressed))}.")
    if not found.paths:
        raise AuditRefused(f"there is no audit record {settings.audit_path}.")
    return found.paths


@contextmanager
def _readable(settings: StoreSettings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename or settings.audit_path
        raise AuditRefused(f"{name} cannot be read: {error.strerror}.") from None


def _more(more: Mapping[str, object], times: int) -> str:
    shown = [f"{name} {value}" for name, value in more.items()]
    return ", ".join([*shown, f"{times} times"] if times > 1 else shown)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
