"""While nothing can be saved: `status` says so, and the log does, once a minute.

An outage begins with the first change that cannot be written, whatever the reason: a full disk, a
quota, a database that is read-only or locked. It ends when something was written and nothing has
been refused for a few seconds: on a full disk small changes may fit where larger ones do not.
"""

import logging
import time

from pwserver.ipc import Scoreboard

DISK_FULL = "The disk is full."
QUOTA_EXCEEDED = "The disk quota is exceeded."
READ_ONLY = "The database is read-only."
LOCKED = "The database is locked by another program."
CANNOT_BE_OPENED = "The database cannot be opened."
DISK_ERROR = "The disk reported an error."

REASONS = ("", DISK_FULL, QUOTA_EXCEEDED, READ_ONLY, LOCKED, CANNOT_BE_OPENED, DISK_ERROR)
"""In the order of their numbers on the scoreboard, which holds no text."""

_LOG_EVERY_S = 60.0
QUIET_S = 5.0
"""How long nothing may have been refused before the outage is over."""

log = logging.getLogger(__name__)


class Outage:
    """What the writer could not write, and since when. Begins without one."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._refused = 0  # changes, in all of the outage
        self._refused_last = 0.0  # seconds of the monotonic clock
        self._logged = 0  # of `_refused`
        self._logged_last = 0.0
        scoreboard.end_outage()

    @property
    def lasts(self) -> bool:
        """Whether there is one."""
        return bool(self._refused)

    def refused(self, changes: int, reason: str) -> None:
        """Note that some changes were refused for one of the `REASONS`."""
        now = self._refused_last = time.monotonic()
        begins = not self.lasts
        self._refused += changes
        self._scoreboard.note_outage(REASONS.index(reason))
        if begins or now - self._logged_last >= _LOG_EVERY_S:
            number = self._refused - self._logged
            log.error("nothing can be saved. %s Changes refused: %s", reason, f"{number:,}")
            self._logged, self._logged_last = self._refused, now

    def written(self) -> None:
        """Note that something was written."""
        if not self.lasts or time.monotonic() - self._refused_last < QUIET_S:
            return
        log.warning("changes are saved again. Refused in all: %s", f"{self._refused:,}")
        self._refused = self._logged = 0
        self._scoreboard.end_outage()
