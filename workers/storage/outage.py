"""Reports an outage, while nothing can be saved: in `status`, and in the log once a minute.

An outage begins with the first change that cannot be written, whatever the reason: a full disk, a
quota, a read-only or locked database. It ends when something was written and no change has been
refused for a few seconds, because on a full disk small changes may fit although larger ones do not.
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
"""How long no change may have been refused before the outage is over."""

log = logging.getLogger(__name__)


class Outage:
    """The writer's present outage, if there is one. There is none at the start."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._refused = 0  # changes, in the whole outage
        self._refused_last = 0.0  # seconds of the monotonic clock
        self._logged = 0  # how many of `_refused` the log has reported
        self._logged_last = 0.0
        scoreboard.end_outage()

    @property
    def lasts(self) -> bool:
        """Whether there is an outage now."""
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
