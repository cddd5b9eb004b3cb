"""Accepting connections and handing them to the worker that has the fewest.

Not a byte of a connection is read here. At the limit of connections nothing is accepted until one
ends: who comes then waits in the kernel's backlog instead of being sent away, and no time is spent.
"""

import errno
import logging
import resource
import socket
from collections.abc import Sequence

from pwserver.config import BACKLOG, HANDOVERS_MAX, Settings
from pwserver.errors import ListenError
from pwserver.handoff import Scoreboard
from pwserver.pool import Child

log = logging.getLogger(__name__)

OWN_FILES = 64
"""Descriptors a process keeps for itself: channels, the database, modules being loaded."""

_KEEPALIVE_S = 60
_KEEPALIVE_PROBE_S = 10
_KEEPALIVE_PROBES = 6


def listening_socket(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say, or raise `ListenError`.

    The options are set here, because accepted connections inherit them: no delay for small replies,
    and a peer that has vanished is given up after two minutes of silence.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ListenError(f"{settings.host!r} is not an address of this machine.") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_PROBE_S)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"{where} is in use by another program; stop it, or choose another --port."
            ) from None
        raise ListenError(f"{where} cannot be listened on: {error.strerror}.") from None
    return listening


def connections_per_worker(settings: Settings) -> int:
    """Return how many connections a worker may have, raising the limit of open files if it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = -(-settings.connections_max // settings.workers)
    if soft < wanted + OWN_FILES:
        soft = min(hard, wanted + OWN_FILES) if hard != resource.RLIM_INFINITY else wanted
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
    """The listening socket, and who has how many of its connections."""

    def __init__(
        self,
        listening: socket.socket,
        workers: Sequence[Child],
        scoreboard: Scoreboard,
        per_worker_max: int,
        message: bytes,
    ) -> None:
        self._listening = listening
        self._workers = workers
        self._scoreboard = scoreboard
        self._per_worker_max = per_worker_max
        self._message = message  # announces sockets to a worker
        self._handed = dict.fromkeys(workers, 0)
        self.stuck = False
        self._complained = False  # about the present trouble, once

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._listening.fileno()

    def restarted(self, worker: Child) -> None:
        """Note that a worker is a new process, without connections."""
        self._handed[worker] = 0

    def close(self) -> None:
        """Stop listening: who comes from now on is refused by the kernel."""
        self._listening.close()

    @property
    def has_room(self) -> bool:
        """Whether any worker could take a connection."""
        return any(self._room(worker) > 0 for worker in self._workers)

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
        room = {worker: self._room(worker) for worker in self._workers}
        batches: dict[Child, list[socket.socket]] = {worker: [] for worker in self._workers}
        self.stuck = False
        for _ in range(HANDOVERS_MAX):
            worker = max(room, key=room.__getitem__)
            if room[worker] <= 0:
                self.stuck = True
                break
            try:
                client, _ = self._listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                if not self._complained:
                    log.warning("connections wait, none can be accepted: %s", error.strerror)
                self._complained = self.stuck = True
                break
            self._complained = False
            batches[worker].append(client)
            room[worker] -= 1
        for worker, clients in batches.items():
            if clients:
                worker.post(self._message + bytes([len(clients)]), clients)
                self._handed[worker] += len(clients)
        return sum(map(len, batches.values()))
