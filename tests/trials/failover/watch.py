"""A client that notes how each call went, and what was noted of each host.

The client does nothing else than `pwserver.Client` does.
"""

from __future__ import annotations

import bisect
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pwserver import Client, FateUnknown, NotSaved, PwserverError
from pwserver.client.commands import Call

CLIENT_TIMEOUT_S = 10.0
"""The default of the client."""

SPARE_S = 3.0
"""By how much a busy machine may exceed a time limit."""

SAVED, NOT_SAVED, OPEN, FAILED = "saved", "not saved", "open", "failed"


@dataclass
class Watch:
    """What clients have seen of one host: when saves were acknowledged, how calls ended and why."""

    acknowledged: array[float] = field(default_factory=lambda: array("d"))
    timeout_s: float = CLIENT_TIMEOUT_S
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    hung: int = 0

    def note(self, calls: Sequence[Call[Any]], results: Sequence[Any], began: float) -> None:
        """Note calls that were sent together."""
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - began)
        self.hung += now - began > self.timeout_s + SPARE_S
        for call, result in zip(calls, results, strict=True):
            if call.fate:
                outcome = _outcome(result)
                self.outcomes[outcome] += 1
                if outcome == SAVED:
                    self.acknowledged.append(now)
                else:
                    self.reasons[f"{type(result).__name__}: {result}"] += 1

    def next_after(self, moment: float) -> float | None:
        """Return when the first change after a moment was acknowledged."""
        at = bisect.bisect_right(self.acknowledged, moment)
        return self.acknowledged[at] if at < len(self.acknowledged) else None

    def pause(self, since: float, until: float) -> float:
        """Return the longest time without an acknowledgement that ended, or went on, in a time."""
        first = max(bisect.bisect_left(self.acknowledged, since) - 1, 0)
        last = bisect.bisect_left(self.acknowledged, until)
        times = sorted([*self.acknowledged[first:last], until])
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _outcome(result: Any) -> str:
    if isinstance(result, FateUnknown):
        return OPEN
    if isinstance(result, NotSaved):
        return NOT_SAVED
    return FAILED if isinstance(result, PwserverError) else SAVED


class WatchedClient(Client):
    """A client of a host."""

    def __init__(self, url: str, watch: Watch) -> None:
        super().__init__(url, timeout_s=watch.timeout_s)
        self._watch = watch

    def _run(self, calls: Sequence[Call[Any]]) -> list[Any]:
        began = time.monotonic()
        try:
            results = super()._run(calls)
        except PwserverError as error:
            self._watch.note(calls, [error] * len(calls), began)
            raise
        self._watch.note(calls, results, began)
        return results
