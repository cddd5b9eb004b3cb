"""The commands of the administrator that look at the audit record.

They read files, whether the service runs or not, and change none.
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

_Files = Annotated[
    Path,
    Parameter(help="Its files, the oldest first. None: the record, and what it was rotated to."),
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
    """List what is in the record.

    Parameters
    ----------
    user
        Only what concerns this username.
    application
        Only what this application did, or what was done to it.
    action
        Only this; of two words, such as "key change", in quotes.
    since
        Only from then on, such as 2026-11-01 or 2026-11-01T12:30 (UTC).
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
    """Check that nothing in the record was cut, edited or put in another order; if so, exit with 5.

    Of files that are named the end is not checked, unless the newest is among them.
    """
    from workers.admin.passphrase import open_keyring
    from workers.admin.setup import owners_rights
    from workers.audit.verification import verify

    protect_memory()
    with owners_rights(settings), _readable(settings):
        key = open_keyring(settings).for_purpose("audit")
        paths = _files(settings, files)
        is_whole = not files or settings.audit_path in paths
        verdict = verify(paths, settings.audit_head_path if is_whole else None, key)
    for finding in verdict.findings:
        output.tell(str(finding))
    for limit in verdict.limits:
        output.tell(limit)
    about = {
        "records": verdict.records,
        "first": verdict.first,
        "last": verdict.last,
        "genuine": verdict.is_genuine,
        "findings": [*map(str, verdict.findings)],
    }
    if not verdict.is_genuine:
        if as_json:
            output.record(about, as_json=True)
        raise AuditRefused("the audit record is not as it was written.")
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
