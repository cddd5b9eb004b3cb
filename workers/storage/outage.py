"""Reports an outage, while nothing can be saved: in `status`, and in the log once a minute.

An outage begins with the first change that cannot be written, whatever the reason: a full disk, a
quota, a read-only or locked database, a server that is away; or when the disk has so little room
left that the workers refuse saves, which the writer does not count. It ends when something was
written and no change has been refused for a few seconds, because on a full disk small changes may
fit although larger ones do not.
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
DISK_LOW = "The disk has less room than disk_reserve_mib keeps free."
SERVER_AWAY = "The database server cannot be reached."
SERVER_REFUSES = "The database server refuses changes; the log says why."
DISK_LOW_FOR_GUESTS = "The disk has less room than clients without a token must leave free."

REASONS = (
    *("", DISK_FULL, QUOTA_EXCEEDED, READ_ONLY, LOCKED, CANNOT_BE_OPENED, DISK_ERROR),
    *(DISK_LOW, SERVER_AWAY, SERVER_REFUSES),
)
"""In the order of their numbers on the scoreboard, which holds no text."""

_LOG_EVERY_S = 60.0
QUIET_S = 5.0
"""How long no change may have been refused before the outage is over."""

log = logging.getLogger(__name__)


class Outage:
    """The writer's present outage, if there is one. There is none at the start."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self.lasts = False
        self._refused = 0  # changes, in the whole outage
        self._refused_last = 0.0  # seconds of the monotonic clock
        self._logged = 0  # how many of `_refused` the log has reported
        self._logged_last = 0.0
        scoreboard.end_outage()

    def refused(self, changes: int, reason: str) -> None:
        """Note that some changes were refused for one of the `REASONS`."""
        now = self._refused_last = time.monotonic()
        begins, self.lasts = not self.lasts, True
        self._refused += changes
        self._scoreboard.note_outage(REASONS.index(reason))
        if begins or now - self._logged_last >= _LOG_EVERY_S:
            number = self._refused - self._logged
            count = f" Changes refused: {number:,}" if number else ""
            log.error("nothing can be saved. %s%s", reason, count)
            self._logged, self._logged_last = self._refused, now

    def written(self) -> None:
        """Note that something was written."""
        if not self.lasts or time.monotonic() - self._refused_last < QUIET_S:
            return
        count = f" Refused in all: {self._refused:,}" if self._refused else ""
        log.warning("changes are saved again.%s", count)
        self.lasts = False
        self._refused = self._logged = 0
        self._scoreboard.end_outage()
