"""Accepting connections and handing each to the worker that has the fewest.

The listener reads no byte of a connection. At the limit of connections it accepts nothing until one
ends: new clients wait in the kernel's backlog instead of being refused, which costs no time. The
scoreboard says that clients wait, and the workers then end connections that are not used.
"""

import errno
import logging
import resource
import select
import socket
from collections import deque
from collections.abc import Sequence

from pwserver.config import Settings
from pwserver.ipc import Scoreboard
from pwserver.limits import HANDOVERS_MAX
from pwserver.server.children import Child
from pwserver.server.sockets import Listening

log = logging.getLogger(__name__)

OWN_FILES = 48
"""Descriptors a process keeps for itself. A worker needs 20 for channels and files; the listener
needs 30, and those of the clients it is handing over. With a limit of 64, which few shells have,
there is room for 16 clients a worker, and a crowd that has gone is worked off in half a second."""


def connections_per_worker(settings: Settings) -> int:
    """Return how many connections a worker may have, raising the limit of open files if it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = -(-settings.connections_max // settings.workers)
    needed = wanted + OWN_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = max(1, min(wanted, soft - OWN_FILES))
    if allowed < wanted:
        log.warning(
            "the limit of open files (%d) allows %d connections, not %d",
            soft,
            allowed * settings.workers,
            settings.connections_max,
        )
    return allowed


class Listener:
    """The listening sockets, and how many of their connections each worker has."""

    def __init__(
        self,
        listening: Sequence[Listening],
        scoreboard: Scoreboard,
        per_worker_max: int,
        message: bytes,
    ) -> None:
        self._listening = listening
        self._sockets = [each.socket for each in listening]  # the one whose turn it is comes first
        self._handed: dict[Child, int] = {}
        self._scoreboard = scoreboard
        self._per_worker_max = per_worker_max
        self._message = message  # announces sockets to a worker
        self.stuck = False
        self._complained = False  # the log has the present trouble already

    @property
    def names(self) -> str:
        """Where it listens, for people to read."""
        return " and ".join(each.name for each in self._listening)

    def filenos(self) -> list[int]:
        """Return the descriptors to wait on."""
        return [each.socket.fileno() for each in self._listening]

    def restarted(self, worker: Child) -> None:
        """Note that a worker is a new process, without connections."""
        self._handed[worker] = 0

    def close(self) -> None:
        """Stop listening: from now on the kernel refuses new clients."""
        for each in self._listening:
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
        return bool(waiting.poll(0))

    def _room(self, worker: Child) -> int:
        if not worker.responsive:
            return 0
        open_now = self._handed[worker] - self._scoreboard.closed(worker.number)
        return self._per_worker_max - open_now

    def accept(self) -> int:
        """Accept what is waiting, up to a limit, and hand it over; return how many that were.

        Sets `stuck` where the system or the workers have no room, so that it is no use to try again
        at once.
        """
        room = {worker: self._room(worker) for worker in self._handed}
        batches: dict[Child, list[socket.socket]] = {worker: [] for worker in self._handed}
        self.stuck = False
        waiting = deque(self._sockets)
        for _ in range(HANDOVERS_MAX):
            worker = max(room, key=room.__getitem__, default=None)
            if worker is None or room[worker] <= 0:
                self.stuck = True
                break
            client = self._accept_from(waiting)
            if client is None:
                break
            batches[worker].append(client)
            room[worker] -= 1
        for worker, clients in batches.items():
            if clients:
                worker.post(self._message + bytes([len(clients)]), clients)
                self._handed[worker] += len(clients)
        return sum(map(len, batches.values()))

    def _accept_from(self, waiting: deque[socket.socket]) -> socket.socket | None:
        """Accept a client. The sockets take turns; those without waiting clients are removed.

        The order of turns outlasts this call, because there may be room for one client only.
        """
        while waiting:
            try:
                client, _ = waiting[0].accept()
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
                return client
        return None
