"""Who a client is and what it may do: applications with their tokens, and clients without one.

A token is a prefix, which people and programs recognise, and 256 random bits. The database holds
its SHA-256: so many random bits cannot be guessed from their hash, so no slower hash is needed. The
row of an application has a seal, made with the integrity key, so that somebody who can write to the
database, but has no key, cannot grant rights.

A worker reads the applications again once a tick (`Registry.refresh`). Changes also apply to open
connections, because all connections with the same token share a `Caller`.
"""

import hashlib
import hmac
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import msgspec

from pwserver.errors import Unavailable
from pwserver.secret import Secret
from pwserver.tokens import TOKEN_PREFIX
from pwserver.wire.messages import RIGHTS, Right
from workers.auth.revisions import RevisionFile
from workers.book.keyring import Keyring
from workers.book.models import COMMON_BOOK, ApplicationRow
from workers.storage.reading import BookReader, applications, sealing_key

log = logging.getLogger(__name__)

_TOKEN_BYTES = 32

ANYBODY = "anybody"
"""The right of every client that reaches the service, for example to ping."""

KNOWN = "known"
"""The right of every application, and of every client on this machine."""

NEEDS_TOKEN = 'This needs the token of an application that may "{right}".'

_PAUSE_S_ROW = 1e-5
"""The pause after a reading, per application (plus ten), before an unknown token may cause another
one: about ten times as long as the reading, so that guessing does not keep a worker busy with it.
Registering an application takes longer, so a new token is known at once."""


def new_token() -> Secret[str]:
    """Return a new token."""
    return Secret(TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))


def token_hash(token: str) -> bytes:
    """Return the hash of a token that the database holds."""
    return hashlib.sha256(token.encode()).digest()


def sealed(row: ApplicationRow, key: Secret[bytes]) -> ApplicationRow:
    """Return an application's row with the seal over all its other columns."""
    content = msgspec.json.encode(row._replace(seal=b""))
    digest = hashlib.blake2b(content, digest_size=32, key=key.reveal()).digest()
    return row._replace(seal=digest)


def is_genuine(row: ApplicationRow, key: Secret[bytes]) -> bool:
    """Tell whether an application's row was written by somebody with the key."""
    try:
        return hmac.compare_digest(sealed(row, key).seal, row.seal)
    except (TypeError, ValueError):  # a column has a value of the wrong type
        return False


def note_revisions(file: RevisionFile, connection: apsw.Connection, key: Secret[bytes]) -> None:
    """Put into the file what the database has that is newer; `key` is that of the rows' seals.

    Call it in a transaction that keeps other writers away. Raises as `RevisionFile.note` does.
    """
    rows = [row for row in applications(connection) if is_genuine(row, key)]
    file.note(rows, sealing_key(connection))


def rights_of(row: ApplicationRow) -> list[Right]:
    """Return the rights of an application."""
    return [right for right in RIGHTS if right in row.may.split()]


@dataclass(eq=False, slots=True)
class Caller:
    """A client's identity and rights, shared by all connections that showed the same token."""

    application: str | None = None
    book: int = COMMON_BOOK
    may: list[Right] = field(default_factory=list)
    rights: frozenset[str] = frozenset({ANYBODY})
    why_not: str = NEEDS_TOKEN  # the reason for a denial; `{right}` is the missing right

    def update(self, row: ApplicationRow) -> None:
        """Set the name, book and rights of an application from its row."""
        self.application, self.book, self.may = row.name, row.book, rights_of(row)
        self.rights = frozenset((ANYBODY, KNOWN, *self.may))
        self.why_not = 'This application may not "{right}".'

    def revoke(self) -> None:
        """Keep the name but remove all rights, because the token is no longer valid."""
        self.may, self.rights = [], frozenset({ANYBODY})
        self.why_not = "The application's token is not good any more."

    def denial(self, right: str) -> str:
        """Return why this client lacks a right. Reveals nothing that is stored."""
        return self.why_not.format(right=right)


GUEST = Caller(may=["save", "count"], rights=frozenset({ANYBODY, KNOWN, "save", "count"}))
"""A client on this machine that has shown no token."""

STRANGER = Caller(
    why_not="From another machine, everything but a ping needs the token of an application."
)
"""A client on another machine that has shown no token."""

WRONG_TOKEN = Caller(why_not="The service does not accept the token that was shown.")
"""A client that has shown an invalid token, wherever it is."""

WRONG_CERTIFICATE = Caller(why_not="The client certificate names no application.")
"""A client with a valid certificate whose name is no application's."""


class Registry:
    """A worker's view of the applications. It must be refreshed once a tick."""

    def __init__(self, reader: BookReader, keyring: Keyring, revisions_path: Path) -> None:
        self._reader = reader
        self._key = keyring.for_purpose("application")
        self._known = RevisionFile(revisions_path, keyring)
        self._revisions = self._known.revisions
        self._rows: list[ApplicationRow] = []
        self._genuine: list[ApplicationRow] = []
        self._good: dict[bytes | str, ApplicationRow] = {}  # by token hash; by name
        self._callers: dict[bytes | str, Caller] = {}
        self._read_next = 0.0  # when an unknown token may cause the next reading

    def refresh(self, now_ms: int) -> None:
        """Read the applications and update the connections' callers; raise `Unavailable`."""
        self._known.look()
        rows = self._reader.applications()
        self._read_next = time.monotonic() + (10 + len(rows)) * _PAUSE_S_ROW
        if rows != self._rows or self._known.revisions is not self._revisions:
            self._rows, self._revisions = rows, self._known.revisions
            self._genuine = [row for row in rows if self._is_genuine(row)]
        self._good = {}
        for row in self._genuine:
            if row.token_hash is not None:
                self._good[row.token_hash] = self._good[row.name] = row
                if row.previous_hash is not None and now_ms < row.previous_until_ms:
                    self._good[row.previous_hash] = row
        for shown, caller in list(self._callers.items()):
            if shown in self._good:
                caller.update(self._good[shown])
            else:
                caller.revoke()
                del self._callers[shown]

    @property
    def sealing_key(self) -> int:
        """The newest key that is known to have been chosen to seal passwords with."""
        return self._known.revisions.sealing_key

    def by_token(self, token: str, now_ms: int) -> Caller | None:
        """Return the application that has a token, or None."""
        return self._caller(token_hash(token), now_ms)

    def by_certificate(self, name: str, now_ms: int) -> Caller | None:
        """Return the application that a client certificate names, or None."""
        return self._caller(name, now_ms)

    def _caller(self, shown: bytes | str, now_ms: int) -> Caller | None:
        """Find a caller by token hash or name; an unknown one may be new, so read again first."""
        if shown not in self._good and time.monotonic() > self._read_next:
            try:
                self.refresh(now_ms)
            except Unavailable as error:
                log.warning("the applications cannot be read now: %s", error)
        row = self._good.get(shown)
        if row is None:
            return None
        if shown not in self._callers:
            self._callers[shown] = caller = Caller()
            caller.update(row)
        return self._callers[shown]

    def _is_genuine(self, row: ApplicationRow) -> bool:
        if not is_genuine(row, self._key):
            log.error(
                "application %s was altered behind the service's back: it may do nothing", row.id
            )
        elif not self._revisions.allows(row):
            log.error(
                "application %s is an old copy that was put back into the database: it may do "
                "nothing. See in `pwserver app list` what it could do, before `pwserver app "
                "rotate` gives it a new token",
                row.id,
            )
        else:
            return True
        return False
