"""Who a client is, and what it may do: applications, their tokens, and those who have none.

A token is 256 random bits behind a prefix that people and programs recognise. It is kept as its
SHA-256: what is random enough cannot be guessed from that, so nothing slower is needed. The row of
an application carries a seal, made with the integrity key, so that who can write to the database,
and has no key, can give nobody a right.

A worker reads the applications again once a tick (`Registry.refresh`), and what has changed is true
for connections that are open already: they share a `Caller` with all of the same token.
"""

import hashlib
import hmac
import logging
import secrets
import time
from dataclasses import dataclass, field

import msgspec

from pwserver.errors import Unavailable
from pwserver.secret import Secret
from pwserver.tokens import TOKEN_PREFIX
from pwserver.wire.messages import RIGHTS, Right
from workers.book.models import COMMON_BOOK, ApplicationRow
from workers.storage.reading import BookReader

log = logging.getLogger(__name__)

_TOKEN_BYTES = 32

ANYBODY = "anybody"
"""What whoever reaches the service may do, such as to ask whether it is alive."""

KNOWN = "known"
"""What any application may do, and who is on this machine."""

NEEDS_TOKEN = 'This needs the token of an application that may "{right}".'

_PAUSE_S_ROW = 1e-5
"""How long an unknown token leads to no other reading, for each application and ten more: about ten
times what reading takes, because guessing must not make a worker read always. To register a few
takes longer than that, so that who shows a new token at once is known."""


def new_token() -> Secret[str]:
    """Return a new token."""
    return Secret(TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES))


def token_hash(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def sealed(row: ApplicationRow, key: Secret[bytes]) -> ApplicationRow:
    """Return an application with the seal that belongs to all the rest of it."""
    content = msgspec.json.encode(row._replace(seal=b""))
    digest = hashlib.blake2b(content, digest_size=32, key=key.reveal()).digest()
    return row._replace(seal=digest)


def is_genuine(row: ApplicationRow, key: Secret[bytes]) -> bool:
    """Tell whether an application is as who had the key has made it."""
    try:
        return hmac.compare_digest(sealed(row, key).seal, row.seal)
    except (TypeError, ValueError):  # a column is not even of its type
        return False


def rights_of(row: ApplicationRow) -> list[Right]:
    """Return the rights of an application."""
    return [right for right in RIGHTS if right in row.may.split()]


@dataclass(eq=False, slots=True)
class Caller:
    """Who is at the other end of a connection, shared by all that showed the same token."""

    application: str | None = None
    book: int = COMMON_BOOK
    may: list[Right] = field(default_factory=list)
    rights: frozenset[str] = frozenset({ANYBODY})
    why_not: str = NEEDS_TOKEN  # is told with a denial, which has the missing right

    def take(self, row: ApplicationRow) -> None:
        """Be an application, as it stands in the database now."""
        self.application, self.book, self.may = row.name, row.book, rights_of(row)
        self.rights = frozenset((ANYBODY, KNOWN, *self.may))
        self.why_not = 'This application may not "{right}".'

    def lose(self) -> None:
        """Keep the name and lose all rights: the token is good no more."""
        self.may, self.rights = [], frozenset({ANYBODY})
        self.why_not = "The application's token is not good any more."

    def denial(self, right: str) -> str:
        """Return why this may not do what needs a right it lacks; nothing of what is stored."""
        return self.why_not.format(right=right)


GUEST = Caller(may=["save", "count"], rights=frozenset({ANYBODY, KNOWN, "save", "count"}))
"""Who has shown no token, on this machine."""

STRANGER = Caller(
    why_not="From another machine, everything but a ping needs the token of an application."
)
"""Who has shown no token, from elsewhere."""

WRONG_TOKEN = Caller(why_not="The service does not accept the token that was shown.")
"""Who has shown a token that is none, from wherever."""

WRONG_CERTIFICATE = Caller(why_not="The client certificate names no application.")
"""Who has a certificate that is in order, and whose name is no application's."""


class Registry:
    """A worker's view of the applications. To be refreshed once a tick."""

    def __init__(self, reader: BookReader, key: Secret[bytes]) -> None:
        self._reader = reader
        self._key = key
        self._rows: list[ApplicationRow] = []
        self._genuine: list[ApplicationRow] = []
        self._good: dict[bytes | str, ApplicationRow] = {}  # by token hash; by name
        self._callers: dict[bytes | str, Caller] = {}
        self._read_next = 0.0  # not before, for a token that is not known

    def refresh(self, now_ms: int) -> None:
        """Read the applications, and let the connections know; raise `Unavailable`."""
        rows = self._reader.applications()
        self._read_next = time.monotonic() + (10 + len(rows)) * _PAUSE_S_ROW
        if rows != self._rows:
            self._rows = rows
            self._genuine = [row for row in rows if self._is_genuine(row)]
        self._good = {}
        for row in self._genuine:
            if row.token_hash is not None:
                self._good[row.token_hash] = self._good[row.name] = row
                if row.previous_hash is not None and now_ms < row.previous_until_ms:
                    self._good[row.previous_hash] = row
        for shown, caller in list(self._callers.items()):
            if shown in self._good:
                caller.take(self._good[shown])
            else:
                caller.lose()
                del self._callers[shown]

    def by_token(self, token: str, now_ms: int) -> Caller | None:
        """Return who has a token, or None where nobody has."""
        return self._caller(token_hash(token), now_ms)

    def by_certificate(self, name: str, now_ms: int) -> Caller | None:
        """Return the application that a client certificate names, or None."""
        return self._caller(name, now_ms)

    def _caller(self, shown: bytes | str, now_ms: int) -> Caller | None:
        """Return who is known by a hash or a name; one that is new may be so since the tick."""
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
            caller.take(row)
        return self._callers[shown]

    def _is_genuine(self, row: ApplicationRow) -> bool:
        genuine = is_genuine(row, self._key)
        if not genuine:
            log.error(
                "application %s was altered behind the service's back: it may do nothing", row.id
            )
        return genuine
