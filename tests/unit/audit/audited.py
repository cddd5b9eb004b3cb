"""What the tests of the audit record share: a record in a folder, and one to compare with."""

import os
from pathlib import Path

from pwserver.secret import Secret
from tests.support.harness import PATIENCE_S
from workers.audit import record
from workers.audit.log_rotation import Rotation
from workers.audit.reading import Record, Records, record_files
from workers.audit.record import AuditLog
from workers.audit.verification import Verdict, verify

KEY = Secret(bytes(range(32)))
TIME_MS = 1_795_379_657_123  # 2026-11-22T20:34:17.123Z


class Audited:
    """A record and its head, in folders of their own, as a service has them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log" / "user_data.audit"
        self.head_path = folder / "data" / "user_data.audit-head"
        self.path.parent.mkdir()
        self.head_path.parent.mkdir()

    def log(self, rotation: Rotation | None = None, syslog: str = "") -> AuditLog:
        """Return the record as a process that has just been started has it."""
        return AuditLog(self.path, self.head_path, KEY, rotation=rotation, syslog=syslog)

    def lines(self) -> list[bytes]:
        """Return the lines of the file at the path."""
        return self.path.read_bytes().splitlines(keepends=True)

    def records(self, *older: Path) -> list[Record]:
        """Return the records of the file at the path, and of older ones before it."""
        return list(Records([*older, self.path]))

    def users(self, *older: Path) -> list[str]:
        """Return whose records there are, in order; of what is about the record itself, what."""
        return [record.user or record.outcome for record in self.records(*older)]

    def verify(self, *older: Path) -> Verdict:
        """Verify the file at the path, with older ones before it, against the head."""
        return verify([*older, self.path], self.head_path, KEY)

    def verify_all(self) -> Verdict:
        """Verify all files that there are, as the command does if none is named."""
        return verify(record_files(self.path).paths, self.head_path, KEY, are_all=True)

    def amiss(self, *older: Path) -> list[tuple[int, str]]:
        """Return in which lines a verification finds what."""
        return [(finding.line, finding.text) for finding in self.verify(*older).findings]


def note(log: AuditLog, user: str, times: int = 1) -> None:
    """Note that a password was given out."""
    log.note(
        time_ms=TIME_MS,
        application="web",
        address="127.0.0.1:51234",
        action="get",
        user=user,
        outcome="ok",
        times=times,
    )


def write(log: AuditLog, *users: str) -> bool:
    """Note and write that passwords of users were given out."""
    for user in users:
        note(log, user)
    return log.write()


def write_from(audited: Audited, name: str, times: int) -> None:
    """Write records one by one, as a process does that is killed at last or ends."""
    record.PATIENCE_S = PATIENCE_S  # on a busy machine, a lock may be held for longer
    log = audited.log()
    for number in range(times):
        while not write(log, f"{name}-{number}", f"{name}-{number}-too"):
            os.sched_yield()
