"""Tells an old copy of what administrators have decided from the present one.

An application's row and the choice of the sealing key are in the database. Their seals show that
somebody with the key has written them, but not that nothing was decided after that. So every change
of an application gets the next number, its revision, and a file beside the database keeps the
newest of each application, and the newest key that was sealed with. A row with a lower revision is
an old copy, which somebody has put back: a revoked token must not become valid again by that.

The database is changed first and the file after it. If a command is killed in between, the row has
a revision that the file does not know yet, which is accepted; the next start of the service, or the
next change, puts it into the file.

Somebody who can write to the file too can put back an old copy of both, or delete it: without a
file everything that is sealed is accepted, as it is where a book was copied to another machine.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pwserver import trust
from pwserver.errors import DatabaseRefused
from pwserver.limits import APPLICATIONS_MAX
from workers.book.keyring import Keyring
from workers.book.models import ApplicationRow

_FILE_BYTES_MAX = 1024 * 1024

log = logging.getLogger(__name__)


class Revisions(msgspec.Struct, frozen=True):
    """What is known: the newest revisions, and the newest key that passwords were sealed with."""

    counter: int = 0
    applications: dict[int, int] = {}
    sealing_key: int = 1

    def allows(self, row: ApplicationRow) -> bool:
        """Tell whether a genuine row is no old copy."""
        known = self.applications.get(row.id)
        return row.revision > self.counter if known is None else row.revision >= known

    def next(self, rows: Sequence[ApplicationRow]) -> int:
        """Return the revision of the next change; `rows` are all that are genuine."""
        return max([self.counter, *(row.revision for row in rows)]) + 1

    def after(self, rows: Sequence[ApplicationRow], sealing_key: int) -> "Revisions":
        """Return what is known after these genuine rows, of all applications, were read.

        If there are several of one application, the newest counts. One without a row is remembered,
        because its database may be put back. It is forgotten after `APPLICATIONS_MAX` others were
        added.
        """
        found: dict[int, int] = {}
        for row in filter(self.allows, rows):
            found[row.id] = max(found.get(row.id, 0), row.revision)
        known = self.applications | found
        oldest = max(known, default=0) - APPLICATIONS_MAX
        kept = {number: known[number] for number in sorted(known) if number > oldest}
        return Revisions(
            max([self.counter, *found.values()]), kept | found, max(self.sealing_key, sealing_key)
        )


class _Stored(msgspec.Struct):
    """The content of the file."""

    revisions: msgspec.Raw
    mac: str


class RevisionFile:
    """The file that holds the revisions, as one process knows it."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self._path = path
        self._key = keyring.for_purpose("revisions")
        self._seen: tuple[int, int, int] | None = None  # tells a file from one that replaced it
        self.revisions = Revisions()

    def read(self) -> Revisions:
        """Return what is in the file, or what is true of a new book if there is no file.

        Raises `DatabaseRefused` if the file is damaged, or belongs to another book.
        """
        if not trust.is_there(self._path):
            return Revisions()
        content = trust.read(
            self._path, "the file", DatabaseRefused, bytes_max=_FILE_BYTES_MAX, private=True
        )
        try:
            stored = msgspec.json.decode(content, type=_Stored)
            if hmac.compare_digest(self._mac(bytes(stored.revisions)), stored.mac):
                return msgspec.json.decode(stored.revisions, type=Revisions)
        except (msgspec.MsgspecError, TypeError):  # TypeError: a MAC that is not ASCII
            pass
        raise DatabaseRefused(
            f"{self._path} is damaged, or of another book. It tells old copies of the applications "
            "in the database from the present ones. Put it back from your backup; or remove it, "
            "if you are sure that the database is the newest."
        )

    def look(self) -> None:
        """Update `revisions` if the file has changed. Call it before the database is read.

        What was known stays known if the file cannot be read, is gone, or is an old copy.
        """
        try:
            found = os.stat(self._path)
            seen = found.st_ino, found.st_mtime_ns, found.st_size
            if seen == self._seen:
                return
            self._seen = seen
            read = self.read()
        except FileNotFoundError:
            return
        except (OSError, DatabaseRefused) as error:
            log.error("what is known of the applications' revisions stays as it was: %s", error)
            return
        if read.counter >= self.revisions.counter:
            self.revisions = read
        else:
            log.error("%s is an old copy; it is not used", self._path)

    def note(self, rows: Sequence[ApplicationRow], sealing_key: int) -> None:
        """Put into the file what these genuine rows, of all applications, have that is newer.

        Call it with the database locked against other writers, because they also write this file.
        Raises `DatabaseRefused` if the file is not as this service has left it, and OSError if it
        cannot be written.
        """
        before = self.read()
        after = before.after(rows, sealing_key)
        if after != before:
            content = msgspec.json.encode(after)
            trust.replace(
                self._path,
                msgspec.json.encode(_Stored(msgspec.Raw(content), self._mac(content))) + b"\n",
            )
        self.revisions = after

    def _mac(self, content: bytes) -> str:
        return hashlib.blake2b(content, digest_size=32, key=self._key.reveal()).hexdigest()
