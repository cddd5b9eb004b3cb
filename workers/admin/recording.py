"""Writes what an administrator does to the audit record, before it is done."""

import getpass
import os
import time

from pwserver.config import StoreSettings
from pwserver.errors import AuditRefused
from workers.audit.actions import Action
from workers.audit.record import AuditLog
from workers.book.keyring import Keyring


class Recording:
    """The audit record, as a command of the administrator writes to it."""

    def __init__(self, settings: StoreSettings, keyring: Keyring) -> None:
        self._path = settings.audit_path
        self._audit = AuditLog(
            settings.audit_path,
            settings.audit_head_path,
            keyring.for_purpose("audit"),
            syslog=settings.audit_syslog,
        )
        self.unrecorded: list[str] = []  # a sentence for each change that could not be recorded

    def record(
        self,
        action: Action,
        command: str,
        application: str | None = None,
        *,
        must_be: bool = True,
        **more: int,
    ) -> None:
        """Write an intended change to the audit record.

        If that is impossible, raise `AuditRefused` for what `must_be` recorded; otherwise note it.
        """
        self._audit.note(
            time_ms=time.time_ns() // 1_000_000,
            application=application,
            address=f"command:{_user()}",
            action=action,
            user=None,
            outcome="ok",
            command=command,
            **more,
        )
        if self._audit.write():
            return
        unwritten = f"the audit record {self._path} cannot be written"
        if must_be:
            raise AuditRefused(f"{unwritten}. Nothing was done.")
        self.unrecorded.append(
            f"WARNING: {unwritten}, so nothing in it says that `{command}` was done."
        )

    def close(self) -> None:
        """Close the audit record."""
        self._audit.close()


def _user() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
