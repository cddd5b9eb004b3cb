"""Accepting connections and handing each to a worker, which `chosen` chooses.

The listener reads no byte of a connection. At the limit of connections it accepts nothing until one
ends: new clients wait in the kernel's backlog instead of being refused, which costs no time. The
scoreboard says that clients wait, and the workers then end connections that are not used. Before
that limit, clients without a token have made room (`workers/serving/places.py`). So a worker gets
more than seven eighths of its connections only when all workers have so many.
"""

import errno
import logging
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from pwserver.accepted import Accepted, shown_address, told
from pwserver.config import Settings
from pwserver.ipc import Scoreboard
from pwserver.limits import HANDOVERS_MAX, PLACES_RESERVED
from pwserver.server.children import Child
from pwserver.server.sockets import Listening

log = logging.getLogger(__name__)

OWN_FILES = 48
"""Descriptors a process keeps for itself. A worker needs 20 for channels and files; the listener
needs 30, and those of the clients it is handing over. With a limit of 64, which few shells have,
there is room for 16 clients a worker, and a crowd that has gone is worked off in half a second."""

_WORKERS_IN_OWN = 16
"""The worker that writes has a channel to each of the others. For so many there is room above."""

SLOW_COMMIT_US = 1000
"""A commit of this time is slow. On a quick disk a commit takes a tenth of it."""

BUSY_PERCENT = 90
"""A worker that uses so much of a processor has no time to spare."""

LEAD_MAX = 16
"""So many connections more than another the worker that writes may have, although it has time to
spare: applications open their connections before they use them. A few callers stay together."""


def connections_per_worker(settings: Settings) -> int:
    """Return how many connections a worker may have, raising the limit of open files if it can."""
    wanted = -(-settings.connections_max // settings.workers)
    own = OWN_FILES + max(0, settings.workers - _WORKERS_IN_OWN)
    soft = raise_file_limit(wanted + own)
    allowed = max(1, min(wanted, soft - own))
    if allowed < wanted:
        log.warning(
            "the limit of open files (%d) allows %d connections, not %d",
            soft,
            allowed * settings.workers,
            settings.connections_max,
        )
    return allowed


def raise_file_limit(needed: int) -> int:
    """Raise the limit of open files to what is needed, if that is allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def chosen(
    places: Mapping[Child, int], writing: Child, *, slow: bool, busy: bool, tls: bool
) -> Child | None:
    """Return the worker to give the next connection to, or None if there is no free place.

    A save costs the least on the worker that writes (`writing`), because it need not pass to
    another process. So that one gets the connection, unless

    - it is `busy`, or has many more than another: then the worker with the most free `places` gets
      it, for the processors that there may be when all of them ask at once;
    - its commits are `slow`: then another worker gets it, because a read should not wait for the
      disk, and beside a slow disk the passage costs nothing;
    - the connection has `tls`: then another worker gets it, whose handshakes and encryption need
      not take turns with the commits.
    """
    free = [worker for worker in places if places[worker] > 0]
    others = [worker for worker in free if worker is not writing]
    leads = writing in free and max(places.values()) - places[writing] >= LEAD_MAX
    if writing in free and not (slow or busy or tls or leads):
        return writing
    candidates = others if others and (slow or tls) else free
    return max(candidates, key=places.__getitem__, default=None)


def to_give_away(free: Mapping[Child, int], last: int) -> Mapping[Child, int]:
    """Return how many places each worker has for new clients, of those that are free.

    The `last` ones of a worker count only if no other worker has any more than these.
    """
    others = {worker: number - last for worker, number in free.items()}
    return others if any(number > 0 for number in others.values()) else free


class Listener:
    """The listening sockets, and how many of their connections each worker has."""

    def __init__(
        self,
        listening: Sequence[Listening],
        scoreboard: Scoreboard,
        per_worker_max: int,
        message: bytes,
        *,
        tls: bool,
    ) -> None:
        self.listening = listening
        self._sockets = [each.socket for each in listening]  # the one whose turn it is comes first
        self._inherited: deque[Accepted] = deque()
        self._handed: dict[Child, int] = {}
        self._scoreboard = scoreboard
        self.per_worker_max = per_worker_max
        """How many connections a worker may have."""
        self._last = per_worker_max // PLACES_RESERVED  # how many places of a worker are the last
        self._message = message  # announces sockets to a worker
        self._tls = tls  # connections over TCP are encrypted
        self.writing: Child | None = None  # the worker that writes
        self.stuck = False
        self._complained = False  # the log has the present trouble already

    @property
    def names(self) -> str:
        """Where it listens, for people to read."""
        return " and ".join(each.name for each in self.listening)

    def filenos(self) -> list[int]:
        """Return the descriptors to wait on."""
        return [each.socket.fileno() for each in self.listening]

    def add(self, clients: Iterable[Accepted]) -> None:
        """Take clients that were accepted before; `accept` hands them to workers first."""
        self._inherited.extend(clients)

    @property
    def has_clients(self) -> bool:
        """Whether such clients wait."""
        return bool(self._inherited)

    def restarted(self, worker: Child) -> None:
        """Note that a worker is a new process, without connections."""
        self._handed[worker] = 0

    def close(self) -> None:
        """Stop listening: from now on the kernel refuses new clients."""
        for each in self.listening:
            each.close()

    @property
    def has_room(self) -> bool:
        """Whether any worker could take a connection."""
        return any(self._room(worker) > 0 for worker in self._handed)

    @property
    def is_crowded(self) -> bool:
        """Whether clients wait, and no worker could take one."""
        if self.has_room:
            return False
        waiting = select.poll()
        for each in self._sockets:
            waiting.register(each, select.POLLIN)
        return bool(self._inherited) or bool(waiting.poll(0))

    def _room(self, worker: Child) -> int:
        if not worker.responsive:
            return 0
        open_now = self._handed[worker] - self._scoreboard.closed(worker.number)
        return self.per_worker_max - open_now

    def accept(self) -> int:
        """Accept what is waiting, up to a limit, and hand it over; return how many that were.

        Sets `stuck` where the system or the workers have no room, so that it is no use to try again
        at once.
        """
        rooms = {worker: self._room(worker) for worker in self._handed}
        batches: dict[Child, list[Accepted]] = {worker: [] for worker in self._handed}
        slow, busy = self._commits_are_slow(), self._scoreboard.writer_load >= BUSY_PERCENT
        self.stuck = False
        waiting = deque(self._sockets)
        for _ in range(HANDOVERS_MAX):
            if not any(free > 0 for free in rooms.values()):
                self.stuck = True
                break
            client = self._accept_from(waiting)
            if client is None:
                break
            tls = self._tls and client.socket.family != socket.AF_UNIX
            assert self.writing is not None
            places = to_give_away(rooms, self._last)
            worker = chosen(places, self.writing, slow=slow, busy=busy, tls=tls)
            assert worker is not None
            batches[worker].append(client)
            rooms[worker] -= 1
        for worker, clients in batches.items():
            if clients:
                self._give(worker, clients)
        return sum(map(len, batches.values()))

    def _give(self, worker: Child, clients: list[Accepted]) -> None:
        worker.post(self._message + told(clients), [client.socket for client in clients])
        self._handed[worker] += len(clients)

    def hand_over(self, client: Accepted) -> None:
        """Give a connection that another process brings to the worker with the most room."""
        worker = max(self._handed, key=self._room)
        if self._room(worker) > 0:
            self._give(worker, [client])
        else:
            client.socket.close()

    def _commits_are_slow(self) -> bool:
        """Tell whether commits take long at present, or the one that is under way does."""
        if self._scoreboard.commit_us >= SLOW_COMMIT_US:
            return True
        since_us = self._scoreboard.commit_since_us
        return since_us > 0 and time.monotonic_ns() // 1000 - since_us >= SLOW_COMMIT_US

    def _accept_from(self, waiting: deque[socket.socket]) -> Accepted | None:
        """Accept a client. The sockets take turns; those without waiting clients are removed.

        The order of turns outlasts this call, because there may be room for one client only.
        """
        if self._inherited:
            return self._inherited.popleft()
        while waiting:
            try:
                accepted, address = waiting[0].accept()
            except BlockingIOError:
                waiting.popleft()
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                if not self._complained:
                    log.warning("connections wait, none can be accepted: %s", error.strerror)
                self._complained = self.stuck = True
                return None
            else:
                self._complained = False
                waiting.rotate(-1)
                self._sockets.remove(waiting[-1])
                self._sockets.append(waiting[-1])
                return Accepted(accepted, shown_address(address))
        return None
