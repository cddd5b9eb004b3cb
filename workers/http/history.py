"""The last minutes of the service, one sample a second, for the page and `pwserver top`.

It compares what the workers have counted with what they had counted a second ago. What changes with
the processes, or with what can be saved, becomes an event with a sentence. Knows nothing of HTTP.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pwserver.ipc import Scoreboard
from pwserver.tally import COUNTS, DENIED, KINDS, OTHERS, READS, SAVES, Counts, percentile_s
from workers.http.health import Health
from workers.storage.backup_files import FAILURES

SAMPLES_MAX = 300
"""Five minutes."""

_EVENTS_MAX = 100
_LINES_MAX = 60
_RATE_SAMPLES = 5
"""What an application does in a second is the mean of so many samples."""

_SHARES = (0.5, 0.95, 0.99)
_NO_APPLICATION = "(without a token)"

Record = dict[str, Any]


class History:
    """Samples, events and log lines.

    `applications` returns a record for each application by its number, with its `name` and more.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        workers: int,
        names: Mapping[int, str],
        health: Health,
        applications: Callable[[], dict[int, Record]],
    ) -> None:
        self._scoreboard = scoreboard
        self._workers = range(1, workers + 1)
        self._names = names
        self._health = health
        self._applications = applications
        self._samples: deque[Record] = deque(maxlen=SAMPLES_MAX)
        self._events: deque[Record] = deque(maxlen=_EVENTS_MAX)
        self._lines: deque[str] = deque(maxlen=_LINES_MAX)
        self._did: deque[dict[int, list[int]]] = deque(maxlen=_RATE_SAMPLES + 1)
        self._counts = self._read()
        self._at_s = time.monotonic()
        self._starts = self._read_starts()
        self._troubles: set[str] = set()
        self._backup_ms = scoreboard.backup_ms

    def add_line(self, line: str) -> None:
        """Add a line of the log."""
        self._lines.append(line)

    def add_event(self, kind: str, text: str) -> None:
        """Add an event; `kind` is `restart`, `backup`, `fault` or `well`."""
        self._events.append({"t": _now_ms(), "kind": kind, "text": text})

    # --- Sampling. ---

    def sample(self) -> None:
        """Take a sample. To be called once a second."""
        counts, now_s = self._read(), time.monotonic()
        before, seconds = self._counts, max(now_s - self._at_s, 0.001)
        self._counts, self._at_s = counts, now_s
        self._did.append(counts.applications)
        sizes = _more(counts.commit_sizes, before.commit_sizes)
        commits = sum(sizes[:-1])
        blocks = [Counts([self._scoreboard.block(each)]) for each in self._workers]
        self._samples.append(
            {
                "t": _now_ms(),
                "rates": [_rate(counts, before, kind, seconds) for kind in range(len(KINDS))],
                "save_ms": _percentiles_ms(counts.times(SAVES), before.times(SAVES)),
                "read_ms": _percentiles_ms(counts.times(READS), before.times(READS)),
                "commit_ms": _percentiles_ms(counts.commit_times, before.commit_times),
                "commits": round(commits / seconds, 1),
                "batch": round(sizes[-1] / commits, 2) if commits else None,
                "connections": [each.single("connections") for each in blocks],
                "queued": sum(each.single("queued") + each.single("named") for each in blocks),
                "users": self._scoreboard.users,
                "busy": self._scoreboard.writer_load,
            }
        )
        self._look_for_events()

    def _read(self) -> Counts:
        return Counts([self._scoreboard.block(each) for each in self._workers])

    def _read_starts(self) -> dict[int, int]:
        return {number: self._scoreboard.starts(number) for number in self._names}

    def _look_for_events(self) -> None:
        starts = self._read_starts()
        for number, name in self._names.items():
            if starts[number] > self._starts[number] > 0:
                self.add_event("restart", f"{name} was started again")
        self._starts = starts
        troubles = {f"{name} does not answer" for name in self._health.silent()}
        if reason := self._health.outage():
            troubles.add(f"nothing can be saved: {reason}")
        if self._scoreboard.backup_failure[0]:
            troubles.add(f"no backup: {FAILURES[self._scoreboard.backup_failure[1]]}")
        if self._backup_ms != (newest_ms := self._scoreboard.backup_ms):
            self._backup_ms = newest_ms
            self.add_event("backup", "a backup was made and verified")
        for trouble in sorted(troubles - self._troubles):
            self.add_event("fault", trouble)
        for trouble in sorted(self._troubles - troubles):
            self.add_event("well", f"over: {trouble}")
        self._troubles = troubles

    # --- Telling. ---

    def told(self, after_ms: int) -> Record:
        """Return all that there is to see; of the samples those after a time."""
        scoreboard = self._scoreboard
        wanted, ready = len(self._workers), scoreboard.workers
        troubles = sorted(self._troubles)
        if ready < wanted:
            troubles.append(f"{ready} of {wanted} workers are ready")
        return {
            "now": _now_ms(),
            "troubles": troubles,
            "uptime_s": round(time.monotonic() - scoreboard.started_s),
            "users": scoreboard.users,
            "samples": [each for each in self._samples if each["t"] > after_ms],
            "events": list(self._events),
            "processes": [
                {
                    "name": name,
                    "restarts": max(0, self._starts[number] - 1),
                    "answers": name not in self._health.silent(),
                }
                for number, name in self._names.items()
            ],
            "applications": self._told_applications(),
            "log": list(self._lines),
        }

    def _told_applications(self) -> list[Record]:
        if not self._did:
            return []
        now, before = self._did[-1], self._did[0]
        seconds = max(1, len(self._did) - 1)
        known = self._applications()
        told = []
        for number in sorted({*known, *now} | {0}):
            did = now.get(number, [0] * (DENIED + 1))
            more = _more(did, before.get(number, [0] * len(did)))
            about = known.get(number) or _about(number)
            rates = [round(each / seconds, 1) for each in more]
            names = zip(("saves", "reads", "counts", "others", "denied"), _ORDER, strict=True)
            told.append(about | {name: rates[place] for name, place in names} | {"did": sum(did)})
        return told


_ORDER = (SAVES, READS, COUNTS, OTHERS, DENIED)


def _about(number: int) -> Record:
    name = f"(removed, {number})" if number else _NO_APPLICATION
    return {"name": name, "may": [], "book": "common" if not number else "", "expires": None}


def _rate(now: Counts, before: Counts, kind: int, seconds: float) -> float:
    more = _more(now.times(kind), before.times(kind))
    return round(sum(more[:-1]) / seconds, 1)


def _percentiles_ms(now: list[int], before: list[int]) -> list[float | None]:
    """Return the percentiles of what came in between, in milliseconds."""
    buckets = _more(now, before)[:-1]
    times = [percentile_s(buckets, share) for share in _SHARES]
    return [None if each is None else round(each * 1000, 3) for each in times]


def _more(now: list[int], before: list[int]) -> list[int]:
    return [max(0, one - other) for one, other in zip(now, before, strict=True)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
