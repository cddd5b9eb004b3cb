"""What the commands of one worker work with."""

import logging
import socket
from dataclasses import dataclass

from pwserver.errors import DatabaseRefused, Unavailable
from pwserver.handoff import Scoreboard
from workers import history
from workers.batches import Batches
from workers.checks import Checks
from workers.lines import Lines
from workers.models import IdClock
from workers.reading import BookReader, Found
from workers.vault import Vault

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Context:
    """The parts of a worker. `now` and `now_ms` are set once a turn."""

    vault: Vault
    ids: IdClock
    batches: Batches
    lines: Lines
    reader: BookReader
    checks: Checks
    scoreboard: Scoreboard
    bell: socket.socket  # a byte here wakes the console
    versions_kept: int  # older ones, of each password
    now: float = 0.0  # seconds of the monotonic clock
    now_ms: int = 0  # milliseconds since 1970

    def password(self, user: Found, version: int) -> tuple[str, int] | None:
        """Return a version of a user's password and when it was saved; None if it is not kept.

        One that was tampered with is logged, and is `Unavailable`: it is never given out.
        """
        sealed, saved_at_ms = user.sealed, user.saved_at_ms
        if version != user.version:
            older = history.find(user.older, version)
            if older is None:
                return None
            sealed, saved_at_ms = older.sealed, older.saved_at_ms
        try:
            return self.vault.open(sealed, user.id, version, user.book), saved_at_ms
        except DatabaseRefused as error:
            log.error("%s", error)
            raise Unavailable(
                "What is stored of this password was altered; it is not given out."
            ) from None
