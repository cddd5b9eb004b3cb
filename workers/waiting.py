"""Waiting for what is about to come, without falling asleep over it.

A process that sleeps has to be woken, and where nothing else runs its processor has to be woken as
well: on a virtual machine that takes 25 microseconds, and a save is handed over four times. So who
expects something within the time of a sync looks for it again and again, for so long and no longer,
and lets others run in between.

Who lets others run comes next only when they are done, or at the next tick of the scheduler, though
they be of the least priority: where a program computes in the background, that is 4 ms. A sleeper
is woken before it. So after one such wait there is no more looking for a while.
"""

import os
import select
import time

_HELD_UP_S = 0.0025
_PAUSE_S = 0.1

Events = list[tuple[int, int]]


class Lookout:
    """Looks for events on an epoll for up to `patience_s`, as long as nobody holds it up."""

    def __init__(self, epoll: select.epoll, patience_s: float, events_max: int = -1) -> None:
        self._epoll = epoll
        self._patience_s = patience_s
        self._events_max = events_max
        self._not_before = 0.0

    def look(self) -> Events:
        """Return events as soon as there are any, or none where it is time to sleep."""
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
