"""Says in the service's log which applications' tokens expire soon, or have expired."""

import logging
from collections.abc import Iterable

from workers.book.models import ApplicationRow, time_saved

WARNED_MS = 7 * 86_400_000
"""How long before a token expires the log begins to say so."""

_AGAIN_MS = 86_400_000
"""How long after a warning the same one is given again."""

log = logging.getLogger(__name__)


class ExpiryWarnings:
    """What has been said of each token so far. A new token is another one."""

    def __init__(self) -> None:
        self._again_ms: dict[tuple[int, int], int] = {}  # by application and time of expiry
        self._expired: set[tuple[int, int]] = set()

    def look(self, rows: Iterable[ApplicationRow], now_ms: int) -> None:
        """Say what is to be said now: at first and once a day before the expiry, once after it."""
        soon_ms = now_ms + WARNED_MS
        for row in rows:
            if row.expires_ms and row.expires_ms < soon_ms and row.token_hash is not None:
                self._warn(row, now_ms)

    def _warn(self, row: ApplicationRow, now_ms: int) -> None:
        token = row.id, row.expires_ms
        at = time_saved(row.expires_ms)
        if row.expires_ms <= now_ms:
            if token not in self._expired:
                self._expired.add(token)
                log.warning("the token of application %r expired at %s", row.name, at)
        elif now_ms >= self._again_ms.get(token, 0):
            self._again_ms[token] = now_ms + _AGAIN_MS
            log.warning(
                "the token of application %r expires at %s; `pwserver app rotate` gives it a new "
                "one",
                row.name,
                at,
            )
