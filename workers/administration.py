"""What an administrator does to applications, in the database, while the service runs or not.

Who may do so is who may use the files: there is no other administrator. Each change is one short
transaction, and is in the audit record before it is made; where it cannot be recorded, it is not
done. The workers take note of it within a tick.
"""

import getpass
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playhouse.apsw_ext import APSWDatabase

from pwserver.config import StoreSettings
from pwserver.errors import AdministrationRefused, AuditRefused, ConfigError, InvalidMessage
from pwserver.limits import APPLICATIONS_MAX
from pwserver.protocol import RIGHTS, Right
from pwserver.secret import Secret
from workers import database
from workers.applications import is_genuine, new_token, sealed, token_hash
from workers.audit import AuditLog
from workers.keys import Keyring, read_keyring
from workers.models import APPLICATION, COMMON_BOOK, Application, ApplicationRow
from workers.names import normal


def applications() -> list[ApplicationRow]:
    """Return all applications in the order in which they were added."""
    rows = Application.select(*APPLICATION).order_by(Application.id)
    return [ApplicationRow(*row) for row in rows.tuples().iterator()]


class Administration:
    """The database and the audit record in the hands of an administrator."""

    def __init__(self, settings: StoreSettings, keyring: Keyring, opened: APSWDatabase) -> None:
        self.settings = settings
        self.keyring = keyring
        self.database = opened
        self._seal_key = keyring.for_purpose("application")
        self._audit = AuditLog(
            settings.audit_path, settings.audit_head_path, keyring.for_purpose("audit")
        )

    def record(
        self, action: str, command: str, application: str | None = None, **more: int
    ) -> None:
        """Put what is about to be done into the audit record; raise `AuditRefused`."""
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
        if not self._audit.write():
            raise AuditRefused(
                f"the audit record {self.settings.audit_path} cannot be written. Nothing was done."
            )

    # --- Applications. ---

    def applications(self) -> list[ApplicationRow]:
        """Return all applications in the order in which they were added."""
        return applications()

    def add(self, name: str, may: Sequence[Right], *, common: bool) -> Secret[str]:
        """Register an application and return its token; raise `AdministrationRefused`."""
        name = _normal(name)
        with self.database.atomic("IMMEDIATE"):
            rows = self.applications()
            if any(row.name == name for row in rows):
                raise AdministrationRefused(
                    f"there is an application {name!r} already; `pwserver app rotate` gives it a "
                    "new token."
                )
            if len(rows) >= APPLICATIONS_MAX:
                raise AdministrationRefused(f"there are {APPLICATIONS_MAX} applications already.")
            number = max((row.id for row in rows), default=COMMON_BOOK) + 1
            token = new_token()
            self.record("administration", "app add", name)
            self._put(
                ApplicationRow(
                    id=number,
                    name=name,
                    book=COMMON_BOOK if common else number,
                    may=" ".join(right for right in RIGHTS if right in may),
                    created_at_ms=time.time_ns() // 1_000_000,
                    token_hash=token_hash(token.reveal()),
                    previous_hash=None,
                    previous_until_ms=0,
                    seal=b"",
                )
            )
        return token

    def rotate(self, name: str, grace_s: float) -> Secret[str]:
        """Give an application a new token and return it; the old one is good for a while yet."""
        token = new_token()
        with self._changing(name, "app rotate") as row:
            until_ms = time.time_ns() // 1_000_000 + int(grace_s * 1000)
            self._put(
                row._replace(
                    token_hash=token_hash(token.reveal()),
                    previous_hash=row.token_hash if grace_s else None,
                    previous_until_ms=until_ms if grace_s else 0,
                )
            )
        return token

    def revoke(self, name: str) -> None:
        """Take an application's tokens away. Its book stays, and a new token opens it again."""
        with self._changing(name, "app revoke") as row:
            self._put(row._replace(token_hash=None, previous_hash=None, previous_until_ms=0))

    @contextmanager
    def _changing(self, name: str, command: str) -> Iterator[ApplicationRow]:
        name = _normal(name)
        with self.database.atomic("IMMEDIATE"):
            row = next((row for row in self.applications() if row.name == name), None)
            if row is None:
                raise AdministrationRefused(f"there is no application {name!r}.")
            if not is_genuine(row, self._seal_key):
                raise AdministrationRefused(
                    f"the application {name!r} was altered in the database by somebody without the "
                    "key; it may do nothing. Restore the database from a backup."
                )
            self.record("administration", command, name)
            yield row

    def _put(self, row: ApplicationRow) -> None:
        Application.insert(sealed(row, self._seal_key)._asdict()).on_conflict_replace().execute()


@contextmanager
def administration(settings: StoreSettings) -> Iterator[Administration]:
    """Give the administrator the database at hand; raise a `StoreError` where it cannot be had."""
    keyring = read_keyring(settings.key_path)
    with database.open_to_administer(settings.path, keyring) as opened:
        yield Administration(settings, keyring, opened)


def _normal(name: str) -> str:
    """Return an application's name as it is kept; raise `ConfigError` for one that is refused."""
    if not name:
        raise ConfigError('"name" is empty.')
    try:
        return normal(name, "name")
    except InvalidMessage as error:
        raise ConfigError(str(error)) from None


def _user() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
