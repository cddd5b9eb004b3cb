"""Who may see what is not for everybody: applications that may `count`, and holders of a link.

A token is shown to the service itself, by a connection that the listener gives to a worker with the
address of the HTTP client. So a token is good here where it is good elsewhere, wrong ones are
delayed, and the audit record has it all; this process has no keys and judges nothing. Such a
connection stays open for a while. Each look at the metrics or the page asks the service's `status`
there, which an application may that may `count`: a token that is taken away shows nothing more.

A link has a secret that is good once, for some minutes. Whoever opens it, or shows a token, gets a
cookie, which is good until the monitor ends, for half a day at most.
"""

import asyncio
import hashlib
import json
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pwserver.secret import Secret
from pwserver.tokens import is_token

HandOver = Callable[[str, socket.socket], None]
"""Gives the service the other end of a connection, with the client's address."""

_VISITS_MAX = 32
_VISIT_S = 120.0
_ANSWER_S = 8.0
_LINK_S = 300.0
_SESSION_S = 43_200.0
_SESSIONS_MAX = 64
_REPLY_BYTES_MAX = 65536


class Visit:
    """A connection to the service in the name of an HTTP client."""

    def __init__(self) -> None:
        self.used_at = time.monotonic()
        self._busy = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None

    async def begin(self, hand_over: HandOver, token: str, address: str) -> bool:
        """Connect, show the token, and return whether it may `count`."""
        ours, theirs = socket.socketpair()
        with theirs:
            hand_over(address, theirs)
        self._reader, self._writer = await asyncio.open_unix_connection(
            sock=ours, limit=_REPLY_BYTES_MAX
        )
        reply = await self._ask({"message": "authenticate", "token": token})
        return reply == "Authenticated!" and await self.may_count()

    async def may_count(self) -> bool:
        """Ask what only an application may that may `count`."""
        self.used_at = time.monotonic()
        return await self._ask({"message": "status"}) == "return_status"

    async def _ask(self, message: dict[str, str]) -> str:
        assert self._writer is not None
        async with self._busy, asyncio.timeout(_ANSWER_S):
            self._writer.write(json.dumps(message).encode() + b"\n")
            line = await self._reader.readline()
        return str(json.loads(line)["message"]) if line else ""

    def end(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class Session:
    """A browser that has shown a token, or that came by a link."""

    until: float
    token: Secret[str] | None = field(repr=False)


class Access:
    """The visits, links and sessions of one monitor."""

    def __init__(self, hand_over: HandOver) -> None:
        self._hand_over = hand_over
        self._visits: OrderedDict[tuple[bytes, str], Visit] = OrderedDict()
        self._links: dict[bytes, float] = {}
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    async def may_count(self, token: str, address: str) -> bool:
        """Tell whether a token of an application that may `count` was shown.

        `address` is the client's, with its port. Raises OSError where the service does not answer.
        """
        if not is_token(token):
            return False
        key = _hash(token), address.rpartition(":")[0]
        visit = self._visits.get(key)
        if visit is not None:
            self._visits.move_to_end(key)
            try:
                if await visit.may_count():
                    return True
            except (OSError, ValueError, KeyError):  # its worker has ended: begin again
                pass
            self._forget(key, visit)
        return await self._begin(key, token, address)

    async def _begin(self, key: tuple[bytes, str], token: str, address: str) -> bool:
        visit = Visit()
        try:
            allowed = await visit.begin(self._hand_over, token, address)
        except (ValueError, KeyError):  # what the service never sends
            allowed = False
        except BaseException:
            visit.end()
            raise
        if not allowed or key in self._visits:  # or another request was faster
            visit.end()
            return allowed
        self._visits[key] = visit
        while len(self._visits) > _VISITS_MAX:
            self._visits.popitem(last=False)[1].end()
        return True

    def _forget(self, key: tuple[bytes, str], visit: Visit) -> None:
        visit.end()
        if self._visits.get(key) is visit:
            del self._visits[key]

    def expire(self) -> None:
        """End what has not been used for long. To be called once a second."""
        now = time.monotonic()
        for key, visit in list(self._visits.items()):
            if now - visit.used_at > _VISIT_S:
                self._forget(key, visit)
        self._links = {link: until for link, until in self._links.items() if until > now}
        for name, session in list(self._sessions.items()):
            if session.until < now:
                del self._sessions[name]

    # --- Browsers. ---

    def new_link(self) -> str:
        """Return the secret of a link, which is good once."""
        link = secrets.token_urlsafe(32)
        self._links[_hash(link)] = time.monotonic() + _LINK_S
        return link

    def by_link(self, link: str) -> str | None:
        """Return the cookie for the first who comes with a link; None for all others."""
        until = self._links.pop(_hash(link), 0.0)
        return self._new_session(None) if until > time.monotonic() else None

    def by_token(self, token: str) -> str:
        """Return the cookie for a token that was accepted."""
        return self._new_session(Secret(token))

    def _new_session(self, token: Secret[str] | None) -> str:
        cookie = secrets.token_urlsafe(32)
        self._sessions[_hash(cookie)] = Session(time.monotonic() + _SESSION_S, token)
        while len(self._sessions) > _SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return cookie

    async def may_look(self, cookie: str, address: Callable[[], str]) -> bool:
        """Tell whether a cookie is good, and what it was given for still is."""
        session = self._sessions.get(_hash(cookie))
        if session is None or session.until < time.monotonic():
            return False
        if session.token is None:
            return True
        return await self.may_count(session.token.reveal(), address())

    def end_session(self, cookie: str) -> None:
        """Forget a cookie."""
        self._sessions.pop(_hash(cookie), None)


def _hash(secret: str) -> bytes:
    """Return what a secret is kept by: whoever measures a look-up learns nothing of it."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()
