"""The monitor: the process that serves metrics, health and the page over HTTP.

It reads the scoreboard and the log lines of the other processes, which never wait for it. It has no
keys of the book. What is HTTP is in `workers/http/`; this file knows how the process lives: its
listening sockets, its beats, the listener's messages, and limits of time and number on connections.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import gc
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pwserver.config import Settings
from pwserver.errors import Unavailable
from pwserver.ipc import Scoreboard, receive_control, send_control
from pwserver.limits import TICK_S
from pwserver.logs import COPY_BYTES_MAX
from workers.process import STOP, TLS, VISITOR, become_child, say_ready
from workers.storage.answers import Steps, finish

if TYPE_CHECKING:
    import ssl

    from uvicorn import Server

    from workers.book.models import ApplicationRow
    from workers.http.door import Door
    from workers.http.site import App
    from workers.tls.certificates import TlsFiles

# What is needed for HTTP is loaded by this process alone.
# ruff: noqa: PLC0415

_NICENESS = 5

_APPLICATIONS_S = 2.0
"""How long the applications that were read from the database are shown."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MonitorStart:
    """What the monitor is started with."""

    number: int  # of its child on the scoreboard
    settings: Settings
    sockets: list[socket.socket]  # for the network, and for the owner of the files
    url: str
    tls: "TlsFiles | None"  # without a key where nothing is encrypted
    lines: socket.socket  # the log of all processes
    names: dict[int, str]  # of the children, by their numbers on the scoreboard


def main(control: socket.socket, scoreboard: Scoreboard, start: MonitorStart) -> None:
    """Serve until the listener says to stop or has died."""
    become_child("monitor")
    os.nice(_NICENESS)
    asyncio.run(_Monitor(control, scoreboard, start).run())


class _Monitor:
    def __init__(self, control: socket.socket, scoreboard: Scoreboard, start: MonitorStart) -> None:
        from workers.http.access import Access
        from workers.http.health import Health
        from workers.http.history import History
        from workers.http.metrics import Metrics
        from workers.http.site import Site

        settings = start.settings
        self._control = control
        self._scoreboard = scoreboard
        self._start = start
        self._tls = start.tls
        self._context: ssl.SSLContext | None = None
        self._number = start.number
        self._applications = _Applications(settings, scoreboard)
        watched = {
            number: name
            for number, name in start.names.items()
            if number <= settings.workers or number == self._number
        }
        self._health = Health(scoreboard, watched)
        self._history = History(
            scoreboard, settings.workers, start.names, self._health, self._applications.read
        )
        self._access = Access(self._hand_over)
        metrics = Metrics(
            scoreboard,
            settings.workers,
            start.names,
            None if settings.server else settings.path,
            self._certificate_ends_s,
        )
        self._site = Site(start.url, self._access, self._health, self._history, metrics)

    async def run(self) -> None:
        """Serve, and look after everything once a second."""
        from workers.http.door import Door, save_memory_of_tls

        loop = asyncio.get_running_loop()
        loop.add_reader(self._control, self._on_control)
        loop.add_reader(self._start.lines, self._on_line)
        for link in self._applications.links:
            loop.add_reader(link, link.work)
        network, owner = (Door(fileno=each.detach()) for each in self._start.sockets)
        if self._start.url.startswith("https:") and self._tls is not None:
            self._context = dataclasses.replace(self._tls, client_ca=b"").context()
            save_memory_of_tls()
        servers = [
            _server(self._site.for_network(), self._context),
            _server(self._site.for_owner(), None),
        ]
        if self._scoreboard.starts(self._number) > 1:
            self._history.add_event("restart", "monitor was started again")
        say_ready(self._control)
        log.info("metrics, health and the page are at %s", self._start.url)
        await asyncio.gather(
            servers[0].serve(sockets=[network]),
            servers[1].serve(sockets=[owner]),
            self._beat(),
            self._look_after([network, owner]),
        )

    async def _beat(self) -> None:
        while True:
            self._scoreboard.beat(self._number)
            for link in self._applications.links:
                link.work()
            await asyncio.sleep(TICK_S)

    async def _look_after(self, doors: "list[Door]") -> None:
        from workers.http.health import LOOK_S

        while True:
            self._health.look()
            self._history.sample()
            self._access.expire()
            if sum([door.end_old() for door in doors]):
                gc.collect()  # handshakes that were cut short are cyclic garbage, 20 KB each
            await asyncio.sleep(LOOK_S)

    # --- The other processes. ---

    def _on_control(self) -> None:
        while (message := receive_control(self._control)) is not None:
            text, descriptors = message
            if text == STOP:  # the listener ends this process when most others have ended
                self._health.stopping = True
            elif text != TLS:  # another program takes over, or the listener is dead
                os._exit(0)
            elif descriptors:
                self._change_certificate(descriptors[0])

    def _change_certificate(self, descriptor: int) -> None:
        from workers.tls.certificates import TlsFiles

        self._tls = TlsFiles.from_descriptor(descriptor)
        if self._context is not None:
            self._tls.load_into(self._context)

    def _on_line(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while line := self._start.lines.recv(COPY_BYTES_MAX):
                self._history.add_line(line.decode(errors="replace").rstrip("\n"))

    def _hand_over(self, address: str, connection: socket.socket) -> None:
        send_control(self._control, VISITOR + address.encode(), [connection.fileno()])

    def _certificate_ends_s(self) -> float | None:
        """Return when the service's certificate expires, in seconds since 1970."""
        if self._tls is None:
            return None
        from cryptography import x509

        first = x509.load_pem_x509_certificates(self._tls.chain)[0]
        ends: datetime.datetime = first.not_valid_after_utc
        return ends.timestamp()


class _Applications:
    """What the database says of the applications that is no secret. Their seals are not checked."""

    def __init__(self, settings: Settings, scoreboard: Scoreboard) -> None:
        from workers.storage.stores import store_of

        self._reader = store_of(settings).reader(scoreboard, None)
        self.links = self._reader.links
        self._read_at = float("-inf")
        self._known: dict[int, dict[str, Any]] = {}

    def read(self) -> dict[int, dict[str, Any]]:
        """Return a record for each by its number; if they cannot be read now, the last ones."""
        if time.monotonic() - self._read_at < _APPLICATIONS_S:
            return self._known
        self._read_at = time.monotonic()
        finish(self._look())
        return self._known

    def _look(self) -> Steps[None]:
        with contextlib.suppress(Unavailable):
            rows: list[ApplicationRow] = yield self._reader.applications()
            known = {}
            for row in rows:
                with contextlib.suppress(ArithmeticError, AttributeError, TypeError, ValueError):
                    if not row.name.startswith(" "):  # a removed one
                        known[row.id] = _about(row)
            self._known = known


def _about(row: "ApplicationRow") -> dict[str, Any]:
    from workers.book.models import time_saved

    name, may = (text.encode(errors="backslashreplace").decode() for text in (row.name, row.may))
    return {
        "name": name,
        "may": may.split(),
        "book": "its own" if row.book else "common",
        "expires": time_saved(row.expires_ms) if row.expires_ms else None,
    }


def _server(app: "App", context: "ssl.SSLContext | None") -> "Server":
    """Return a server that leaves signals and logs alone."""
    import uvicorn

    from workers.http.door import CONNECTIONS_MAX

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # the listener alone acts on signals

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=CONNECTIONS_MAX,  # as many are accepted before any is served, or ended
    )
    config.load()
    config.ssl = context
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # anybody can cause its warnings
    return Server(config)
