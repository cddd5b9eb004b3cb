"""Whether the processes answer, and whether a commit succeeds within a deadline.

Both are told by the scoreboard alone. A process that is well changes its word there at every tick.
The writer does a commit when the monitor asks for one, even if there is nothing to save.
"""

import asyncio
import time
from collections.abc import Mapping

from pwserver.ipc import Scoreboard
from workers.storage.outage import REASONS

LOOK_S = 1.0
"""How often `look` is called."""

_SILENT_LOOKS_MAX = 4
"""A process that has not changed its word for so many looks does not answer. Looks are counted, not
seconds: if all processes were suspended, all of them are well."""

_RECENT_MS = 1000
"""A commit that is not older proves that changes can be saved: many who ask cost nothing."""

READY_S = 2.0
"""How long a commit may take. The writer looks four times a second whether one is wanted."""

_POLL_S = 0.02


class Health:
    """The health of a service. `names` are those of the processes that show signs of life."""

    def __init__(self, scoreboard: Scoreboard, names: Mapping[int, str]) -> None:
        self._scoreboard = scoreboard
        self._names = {0: "listener", **names}
        self.stopping = False  # the service takes no new clients any more
        self._beats: dict[int, int] = {}
        self._silent: dict[int, int] = {}

    def look(self) -> None:
        """Look for signs of life. To be called every `LOOK_S`."""
        for number in self._names:
            beats = self._scoreboard.beats(number) if number else self._scoreboard.ticks
            silent = self._silent.get(number, 0) + 1
            self._silent[number] = silent if beats == self._beats.get(number) else 0
            self._beats[number] = beats

    def silent(self) -> list[str]:
        """Return the processes that do not answer."""
        return [
            name
            for number, name in self._names.items()
            if self._silent.get(number, 0) >= _SILENT_LOOKS_MAX
        ]

    def outage(self) -> str:
        """Return why nothing can be saved, or nothing."""
        since_ms, reason = self._scoreboard.outage
        return REASONS[reason] if since_ms else ""

    async def why_not_ready(self) -> str:
        """Return why a new client's change would not be saved now, or nothing if it would be."""
        if self.stopping:
            return "The service is stopping."
        if self._silent.get(0, 0) >= _SILENT_LOOKS_MAX:
            return "The listener does not answer."
        if reason := self.outage():
            return reason
        asked_ms = time.monotonic_ns() // 1_000_000
        if asked_ms - self._scoreboard.committed_ms <= _RECENT_MS:
            return ""
        self._scoreboard.probe_wanted = True
        deadline = time.monotonic() + READY_S
        while self._scoreboard.committed_ms < asked_ms:
            if time.monotonic() > deadline:
                return self.outage() or f"There was no commit within {READY_S:g} s."
            await asyncio.sleep(_POLL_S)
        return ""
