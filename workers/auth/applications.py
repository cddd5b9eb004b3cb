"""Who a client is and what it may do: applications with their tokens, and clients without one.

A token is a prefix, which people and programs recognise, and 256 random bits. The database holds
its SHA-256: so many random bits cannot be guessed from their hash, so no slower hash is needed. The
row of an application has a seal, made with the integrity key, so that somebody who can write to the
database, but has no key, cannot grant rights.

A client certificate stands for an application if the hash of its public key is in the row. What
names it has does not matter.

A worker reads the applications again once a tick (`Registry.refresh`). Changes also apply to open
connections, because all connections with the same token from the same address share a `Caller`.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

from pwserver.errors import DatabaseRefused, Unavailable
from pwserver.networks import is_within
from pwserver.secret import Secret
from pwserver.tokens import TOKEN_PREFIX
from pwserver.wire.messages import RIGHTS, Right
from pwserver.wire.scram import Verifier, user_of_hash
from workers.auth.expiry import ExpiryWarnings
from workers.auth.revisions import RevisionFile
from workers.auth.usage import Usage, UsageTable
from workers.book.keyring import Keyring
from workers.book.models import COMMON_BOOK, ApplicationRow
from workers.storage.answers import Steps
from workers.storage.store import OpenBook, Reader

log = logging.getLogger(__name__)

_TOKEN_BYTES = 32

ANYBODY = "anybody"
"""The right of every client that reaches the service, for example to ping."""

KNOWN = "known"
"""The right of every application, and of every guest."""

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


def note_revisions(
    file: RevisionFile,
    book: OpenBook,
    key: Secret[bytes],
    decided: Sequence[ApplicationRow] = (),
    sealing_key: int = 0,
) -> None:
    """Put into the file what the database has that is newer; `key` is that of the rows' seals.

    So is what was `decided` just now, and the `sealing_key` that was chosen: somebody who can write
    to the database may have undone it already. Call it in a transaction that keeps other writers
    away. Raises as `RevisionFile.note` does.
    """
    rows = [row for row in book.applications() if is_genuine(row, key)]
    file.note([*rows, *decided], max(book.sealing_key(), sealing_key))


def rights_of(row: ApplicationRow) -> list[Right]:
    """Return the rights of an application."""
    return [right for right in RIGHTS if right in row.may.split()]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Caller:
    """A client's identity and rights.

    All connections that showed the same token, or certificate, from the same address share it.
    """

    application: str | None = None
    book: int = COMMON_BOOK
    may: list[Right] = field(default_factory=list)
    rights: frozenset[str] = frozenset({ANYBODY})
    why_not: str = NEEDS_TOKEN  # the reason for a denial; `{right}` is the missing right
    number: int = 0  # the application's; 0: none
    until_ms: int = 0  # when what was shown stops being valid; 0: never
    users_max: int = 0  # quotas; 0: none
    saves_per_s: int = 0
    connections_max: int = 0
    saves_are_limited: bool = False

    @classmethod
    def refused(cls, application: str, why_not: str) -> "Caller":
        """Return an application that has shown what is valid no more, or not here."""
        return cls(application=application, why_not=why_not)

    @property
    def is_admitted(self) -> bool:
        """Whether this is an application that has its rights."""
        return self.number != 0 and KNOWN in self.rights

    def update(self, row: ApplicationRow, until_ms: int) -> None:
        """Set all that an application's row says of it."""
        self.application, self.book, self.may = row.name, row.book, rights_of(row)
        self.rights = frozenset((ANYBODY, KNOWN, *self.may))
        self.why_not = 'This application may not "{right}".'
        self.number, self.until_ms = row.id, until_ms
        self.users_max, self.saves_per_s = row.users_max, row.saves_per_s
        self.connections_max = row.connections_max
        self.saves_are_limited = bool(row.users_max or row.saves_per_s)

    def revoke(self, why_not: str) -> None:
        """Keep the name but remove all rights, because what was shown is no longer valid."""
        self.may, self.rights = [], frozenset({ANYBODY})
        self.why_not = why_not

    def denial(self, right: str) -> str:
        """Return why this client lacks a right. Reveals nothing that is stored."""
        return self.why_not.format(right=right)


GUEST = Caller(may=["save", "count"], rights=frozenset({ANYBODY, KNOWN, "save", "count"}))
"""A client on this machine that has shown no token."""

STRANGER = Caller(
    why_not="From another machine, everything but a ping needs the token of an application."
)
"""A client on another machine that has shown no token."""


def limit_guests(saves_per_s: int, users_max: int) -> None:
    """Set the quotas of all guests together: saves a second, and users of the common book."""
    GUEST.saves_per_s, GUEST.users_max = saves_per_s, users_max
    GUEST.saves_are_limited = bool(saves_per_s or users_max)


NO_GUEST = Caller(
    why_not="This service has no guests: everything but a ping needs the token of an application."
)
"""A client that has shown no token, wherever it is, to a service without guests."""

WRONG_TOKEN = Caller(why_not="The service does not accept the token that was shown.")
"""A client that has shown an invalid token, wherever it is."""

WRONG_CERTIFICATE = Caller(why_not="The client certificate stands for no application.")
"""A client with a verified certificate that was registered for no application."""

CROWDED = Caller(why_not="The application has as many connections as it may have.")
"""A client that was recognised when its application had `connections_max` connections."""

REVOKED = "The application's token is not good any more."
EXPIRED = "The application's token has expired; `pwserver app rotate` gives it a new one."
MISPLACED = "The application's token is not good at this address."


_Shown = bytes
"""What a client shows: the hash of a token, or the hash of a certificate's key behind a prefix, so
that nobody can show a public key as a token."""


class _Credential(NamedTuple):
    """What stands for an application."""

    shown: _Shown
    row: ApplicationRow
    until_ms: int  # when it stops being valid; 0: never
    verifier: bytes | None = None  # of a token

    def why_not(self, origin: str, now_ms: int) -> str | None:
        """Return why it does not count now, at this origin; None if it does."""
        if self.until_ms and now_ms >= self.until_ms:
            return EXPIRED if self.until_ms == self.row.expires_ms else REVOKED
        return None if is_within(origin, self.row.networks) else MISPLACED


def _by_key(key_hash: bytes) -> _Shown:
    return b"certificate " + key_hash


def _credentials(row: ApplicationRow) -> Iterator[_Credential]:
    """Yield what stands for an application, the present token and certificate last."""
    until_ms = row.previous_until_ms
    if row.previous_hash is not None:
        yield _Credential(row.previous_hash, row, until_ms, row.previous_verifier)
    if row.previous_certificate is not None:
        yield _Credential(_by_key(row.previous_certificate), row, until_ms)
    if row.token_hash is not None:
        yield _Credential(row.token_hash, row, row.expires_ms, row.verifier)
    if row.certificate is not None:
        yield _Credential(_by_key(row.certificate), row, row.expires_ms)


class Registry:
    """A worker's view of the applications. It must be refreshed once a tick.

    `usage` counts what they use. One worker of a service has the `warnings` of expiry.
    """

    def __init__(
        self,
        reader: Reader,
        keyring: Keyring,
        revisions_path: Path,
        usage: Usage | None = None,
        warnings: ExpiryWarnings | None = None,
    ) -> None:
        self.usage = usage or Usage(UsageTable(1), 1)
        self._warnings = warnings
        self._reader = reader
        self._key = keyring.for_purpose("application")
        self._known = RevisionFile(revisions_path, keyring)
        self._revisions = self._known.revisions
        self._rows: list[ApplicationRow] = []
        self._noted: tuple[list[ApplicationRow], int] | None = None
        self._nobodys_key = keyring.for_purpose("verifier of nobody").reveal()
        self._credentials: dict[_Shown, _Credential] = {}
        self._users: dict[str, _Credential] = {}  # those with a verifier, as `scram` names them
        self._callers: WeakValueDictionary[tuple[_Shown, str], Caller] = WeakValueDictionary()
        self._read_next = 0.0  # when something unknown may cause the next reading

    def refresh(self, now_ms: int) -> Steps[None]:
        """Read the applications and update the connections' callers; raise `Unavailable`.

        If they cannot be read, what has expired meanwhile stops being valid nevertheless.
        """
        changed = False
        self._known.look()
        try:
            rows: list[ApplicationRow] = yield self._reader.applications()
            self._read_next = time.monotonic() + (10 + len(rows)) * _PAUSE_S_ROW
            if changed := rows != self._rows or self._known.revisions is not self._revisions:
                self._take(rows)
        finally:
            self._update_callers(now_ms, changed=changed)
        if self._warnings is not None:
            self._warnings.look([each.row for each in self._credentials.values()], now_ms)

    def note(self, sealing_key: int) -> None:
        """Keep what was read last, which another host may have decided: nothing older counts then.

        For one worker of a service. Who changes applications here keeps it as well.
        """
        if (
            self._noted is not None
            and self._noted[0] is self._rows
            and self._noted[1] == sealing_key
        ):
            return
        self._noted = self._rows, sealing_key
        try:
            genuine = [row for row in self._rows if is_genuine(row, self._key)]
            self._known.note(genuine, sealing_key)
        except (OSError, DatabaseRefused) as error:
            log.error("what was decided last cannot be kept: %s", error)

    @property
    def sealing_key(self) -> int:
        """The newest key that is known to have been chosen to seal passwords with."""
        return self._known.revisions.sealing_key

    def _take(self, rows: list[ApplicationRow]) -> None:
        self._rows, self._revisions = rows, self._known.revisions
        genuine = [row for row in rows if self._is_genuine(row)]
        self._credentials = {each.shown: each for row in genuine for each in _credentials(row)}
        self._users = {
            user_of_hash(each.shown): each
            for each in self._credentials.values()
            if each.verifier is not None
        }
        self.usage.place([row.id for row in genuine])

    def _update_callers(self, now_ms: int, *, changed: bool) -> None:
        for (shown, origin), caller in list(self._callers.items()):
            credential = self._credentials.get(shown)
            why_not = REVOKED if credential is None else credential.why_not(origin, now_ms)
            if why_not is not None:
                caller.revoke(why_not)
                del self._callers[shown, origin]
            elif changed and credential is not None:
                caller.update(credential.row, credential.until_ms)

    def by_token(self, token: str, origin: str, now_ms: int) -> Steps[Caller | None]:
        """Return the application that has a token, or None.

        It is not admitted if the token has expired, or is not valid at this origin.
        """
        return self.by_token_hash(token_hash(token), origin, now_ms)

    def by_token_hash(self, shown: bytes, origin: str, now_ms: int) -> Steps[Caller | None]:
        """Return the application that has a token with this hash, likewise."""
        return self._caller(shown, origin, now_ms)

    def verifier_of(self, user: str, now_ms: int) -> Steps[tuple[Verifier, bytes]]:
        """Return what checks the proof of a token, and the token's hash.

        For a user that is unknown, nothing that a client can send passes the check.
        """
        if user not in self._users:
            yield from self._read_again(now_ms)
        credential = self._users.get(user)
        if credential is None or credential.verifier is None:
            return Verifier.of_nobody(user, self._nobodys_key), b""
        return Verifier.unpack(credential.verifier), credential.shown

    def by_certificate(self, key_hash: bytes, origin: str, now_ms: int) -> Steps[Caller | None]:
        """Return the application that a certificate with this key stands for, likewise."""
        return self._caller(_by_key(key_hash), origin, now_ms)

    def _caller(self, shown: _Shown, origin: str, now_ms: int) -> Steps[Caller | None]:
        """Find a caller by what it shows."""
        if shown not in self._credentials:
            yield from self._read_again(now_ms)
        credential = self._credentials.get(shown)
        if credential is None:
            return None
        row = credential.row
        why_not = credential.why_not(origin, now_ms)
        if why_not is not None:
            return Caller.refused(row.name, why_not)
        caller = self._callers.get((shown, origin))
        if caller is None:
            caller = Caller()
            caller.update(row, credential.until_ms)
            self._callers[shown, origin] = caller
        return caller

    def _read_again(self, now_ms: int) -> Steps[None]:
        """Read the applications because something unknown was shown, which may be new."""
        if time.monotonic() <= self._read_next:
            return
        try:
            yield from self.refresh(now_ms)
        except Unavailable as error:
            log.warning("the applications cannot be read now: %s", error)

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
