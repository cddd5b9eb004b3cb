"""Clients on their way from the listener to a connection: a balancer's header first, then TLS.

Both are waited for beside the worker's connections. They have places like them, and a deadline.
Most services have neither, and then a client is a connection at once. What is not needed is not
loaded.
"""

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.errors import Unavailable
from pwserver.wire import messages
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.waiting import Watched

if TYPE_CHECKING:
    from workers.auth.awaited_headers import Arrival, AwaitedHeaders
    from workers.tls.certificates import TlsFiles
    from workers.tls.handshakes import Handshakes
    from workers.tls.records import Codec

_NO_HEADER = messages.refusal(
    Unavailable("A connection from this address must begin with a PROXY header (version 2)."), UNSET
)

log = logging.getLogger(__name__)


class Host(Protocol):
    """The loop, as those who arrive see it."""

    def watch(self, channel: Watched, handler: Callable[[], None]) -> None:
        """Call a handler whenever a channel is readable."""

    def connect(self, client: Accepted, codec: "Codec | None" = None) -> Connection:
        """Make a connection of a client's socket, and return it."""

    def receive(self, connection: Connection) -> None:
        """Receive from a new connection. Most have sent their first request by now."""

    def count_closed(self, connections: int) -> None:
        """Note that this many clients have ended."""


class Arrivals:
    """The clients of a worker that are no connections yet."""

    def __init__(
        self, context: Context, settings: Settings, tls: "TlsFiles | None", host: Host
    ) -> None:
        self._context = context
        self._host = host
        self._headers: AwaitedHeaders | None = None
        self._handshakes: Handshakes | None = None
        self._handshakes_wait = False
        self._client_ca = b"" if tls is None else tls.client_ca
        if settings.balancers:
            from workers.auth import awaited_headers  # noqa: PLC0415

            self._headers = awaited_headers.AwaitedHeaders(
                settings.balancers, settings.handshake_timeout_s
            )
            host.watch(self._headers, self._on_headers)
        if tls is not None:
            from workers.tls import handshakes  # noqa: PLC0415

            self._handshakes = handshakes.Handshakes(tls.context(), settings.handshake_timeout_s)
            host.watch(self._handshakes, self._on_handshakes)

    def __len__(self) -> int:
        headers = 0 if self._headers is None else len(self._headers)
        return headers if self._handshakes is None else headers + len(self._handshakes)

    def add(self, client: Accepted) -> None:
        """Begin with a client that the listener has passed on."""
        client.socket.setblocking(False)
        if self._headers is not None and self._headers.expects(client):
            self._headers.add(client, self._context.now)
        else:
            self._go_on(client)

    def _go_on(self, client: Accepted) -> None:
        """Go on with a client whose address is known."""
        if self._handshakes is not None and client.socket.family != socket.AF_UNIX:
            self._handshakes.add(client, self._context.now)
        else:
            self._host.receive(self._host.connect(client))

    def expire(self, now: float, *, hurry: bool) -> None:
        """End the clients whose header or handshake took too long; with `hurry`, sooner."""
        if self._headers is not None:
            self._end_or_go_on(self._headers.expire(now, hurry=hurry))
        if self._handshakes is not None:
            self._host.count_closed(self._handshakes.expire(now, hurry=hurry))

    def look_again(self) -> None:
        """Take the headers that have arrived by now."""
        if self._headers is not None:
            self._on_headers()

    def end(self, *, release: bool) -> list[Accepted]:
        """End all; with `release`, return those of whom nothing was read yet, for others."""
        released: list[Accepted] = []
        for arriving in (self._headers, self._handshakes):
            if arriving is not None:
                if release:
                    released += arriving.release()
                self._host.count_closed(arriving.close())
        return released

    # --- Balancers. ---

    def _on_headers(self) -> None:
        assert self._headers is not None
        self._end_or_go_on(self._headers.work())

    def _end_or_go_on(self, arrivals: "list[Arrival]") -> None:
        """Go on with the clients whose header has arrived; end the connections that have none."""
        for client, why_not in arrivals:
            if not why_not:
                self._go_on(client)
                continue
            connection = self._host.connect(client)
            if self._context.note_refusal(connection.peer, "denied", None, why_not):
                log.warning("a connection from %s is refused: %s", client.address, why_not)
            connection.turn_away(b"" if self._handshakes is not None else _NO_HEADER)

    # --- TLS. ---

    def _on_handshakes(self) -> None:
        self._handshakes_wait = True  # until those who have sent requests are answered

    def shake_hands(self) -> bool:
        """Advance the handshakes for a moment, if there are any to advance; tell whether so.

        The clients that have finished theirs are served.
        """
        if not self._handshakes_wait or self._handshakes is None:
            return False
        self._handshakes_wait = False
        for arrival in self._handshakes.work():
            connection = self._host.connect(arrival.client, arrival.codec)
            if arrival.codec is None:
                connection.turn_away(arrival.data)
            elif arrival.data:
                connection.receive_records(arrival.data)
        return True

    def change_certificates(self, descriptors: list[int]) -> bool:
        """Use new certificates for handshakes that begin from now on.

        Returns whether other client certificates may be verified now. Then connections that were
        made with one must end: whoever comes again is verified again.
        """
        from workers.tls.certificates import TlsFiles  # noqa: PLC0415

        assert self._handshakes is not None
        try:
            files = [TlsFiles.from_descriptor(descriptor) for descriptor in descriptors]
            self._handshakes.context = files[0].context()
        except (OSError, IndexError):  # too few descriptors; the listener tested the rest
            log.error("too many open files to take new certificates: the old ones stay")
            return False
        before, self._client_ca = self._client_ca, files[0].client_ca
        return before != self._client_ca
