"""Busy waiting for an event that is expected soon, for a bounded time.

Waking a sleeping process takes time, and so does waking an idle processor: 25 microseconds on a
virtual machine, and a save passes between processes two or four times. So a process that expects an
event within the time of a sync polls for it repeatedly, and yields the processor after each poll.

A process that yields runs again only after the others, or at the scheduler's next tick, even if the
others have the lowest priority: beside a program that computes in the background that takes 4 ms. A
sleeping process would be woken sooner. So after one such delay there is no busy waiting for 0.1 s.
"""

import os
import select
import time
from typing import Protocol

_HELD_UP_S = 0.0025
_PAUSE_S = 0.1

Events = list[tuple[int, int]]


class Watched(Protocol):
    """What a loop can wait for."""

    def fileno(self) -> int:
        """Return the descriptor, which stays the same."""


class Lookout:
    """Polls an epoll for up to `patience_s`, unless other processes have just delayed it."""

    def __init__(self, epoll: select.epoll, patience_s: float, events_max: int = -1) -> None:
        self._epoll = epoll
        self._patience_s = patience_s
        self._events_max = events_max
        self._not_before = 0.0

    def look(self) -> Events:
        """Return events as soon as there are any, or none if the caller should sleep."""
        poll, clock, let_others_run = self._epoll.poll, time.monotonic, os.sched_yield
        now = clock()
        if now < self._not_before:
            return []
        until = now + self._patience_s
        while not (events := poll(0, self._events_max)) and now < until:
            let_others_run()
            before, now = now, clock()
            if now - before > _HELD_UP_S:
                self._not_before = now + _PAUSE_S
        return events
