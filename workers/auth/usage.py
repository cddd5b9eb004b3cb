"""How much each application uses of what it may have a quota of, over all workers.

The table is in shared memory, without locks. Each application has a slot: its place among the
applications in the order of their numbers. So no two share a slot. When an application disappears
from the database, others get its slot; for up to a tick, until every worker has noticed it, a count
may be that of another application.

Connections: each worker writes its own number of them, and reads those of the others. It writes
before it reads, so two workers never admit one too many; at the same moment both may refuse.

Saves: one number for all workers, the time at which all saves so far would have been done at the
permitted rate (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371).
Two workers that save for the same application within the same microsecond may miss one another's
saves. Times are in seconds of the monotonic clock, which all processes share.
"""

from collections import Counter

from pwserver.limits import APPLICATIONS_MAX
from pwserver.memory import SharedArray

SLOTS = 2 * APPLICATIONS_MAX + 1
"""All applications, and the tombstones of as many that were removed."""

BURST_S = 1.0
"""An application that has saved nothing may save at once what it may save in so many seconds."""

_ROUNDING = 1e-6
"""By how much a number of saves may be below a whole one, because times are floating point."""


class UsageTable:
    """The shared table. The listener makes it and passes it to every worker at its start."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.connections = SharedArray("Q", SLOTS * workers)
        self.saved_until = SharedArray("d", SLOTS)


class Usage:
    """The table as one worker uses it; `worker` is its number, 1 and up."""

    def __init__(self, table: UsageTable, worker: int) -> None:
        self._workers = table.workers
        self._own = worker - 1
        self._connections = table.connections.numbers
        self._saved_until = table.saved_until.numbers
        self._slots: dict[int, int] = {}  # by the application's number
        self._open: Counter[int] = Counter()  # this worker's connections, likewise
        self._forget()  # what a worker with this number counted that is dead now

    def place(self, applications: list[int]) -> None:
        """Say which applications there are, in the order of their numbers."""
        slots = {number: place % SLOTS for place, number in enumerate(applications)}
        if slots != self._slots:
            self._slots = slots
            self._forget()
            for number in self._open:
                self._publish(number)

    # --- Connections. ---

    def enter(self, number: int, connections_max: int) -> bool:
        """Count one more connection of an application, unless it has as many as it may have."""
        self._open[number] += 1
        self._publish(number)
        if connections_max and self._total(number) > connections_max:
            self.leave(number)
            return False
        return True

    def leave(self, number: int) -> None:
        """Count one connection less; the number 0 stands for no application."""
        if number:
            self._open[number] -= 1
            self._publish(number)
            if not self._open[number]:
                del self._open[number]

    def _publish(self, number: int) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            self._connections[slot * self._workers + self._own] = self._open[number]

    def _total(self, number: int) -> int:
        slot = self._slots.get(number)
        if slot is None:
            return self._open[number]
        return sum(self._connections[slot * self._workers : (slot + 1) * self._workers])

    def _forget(self) -> None:
        for slot in range(SLOTS):
            self._connections[slot * self._workers + self._own] = 0

    # --- Saves. ---

    def saves(self, number: int, per_s: int, wanted: int, now: float) -> int:
        """Return how many of the wanted saves an application may do now, and count these."""
        slot = self._slots.get(number, SLOTS - 1)
        until = max(self._saved_until[slot], now)
        allowed = min(wanted, int((now + BURST_S - until) * per_s + _ROUNDING))
        if allowed > 0:
            self._saved_until[slot] = until + allowed / per_s
        return max(allowed, 0)
