"""A worker process: the event loop that serves its client connections.

One turn: wait for events, handle the requests that have arrived (for a limited time), send the rows
of all connections to the writer as one batch, and send each connection its replies with one call.
The listener passes client sockets over the control channel; the writer answers over the frame
channel. The command table knows what a message means; this file does not.

The loop is our own, on epoll, because the service lives by its speed: on asyncio with uvloop the
same work was 0.7 to 0.9 times as fast.
"""

import logging
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pwserver.config import Settings
from pwserver.ipc import Scoreboard, receive_control
from pwserver.limits import COMMIT_AWAITED_S, TICK_S
from workers.audit.record import AuditLog
from workers.auth.applications import Registry
from workers.auth.throttle import GuessTable, Throttle
from workers.book.keyring import Keyring
from workers.book.models import IdClock
from workers.book.vault import Vault
from workers.process import CHECKER, CLIENTS, STOP, TLS, WRITER, become_child, say_ready
from workers.serving.awaited import Waiter
from workers.serving.checks import Checks
from workers.serving.commit_queue import Batch, CommitQueue
from workers.serving.connection import Connection
from workers.serving.context import Context
from workers.serving.intake import Intake
from workers.serving.name_queues import NameQueues
from workers.storage.reading import BookReader
from workers.waiting import Events, Lookout

if TYPE_CHECKING:  # a service without TLS does not load it
    from workers.tls.certificates import TlsFiles
    from workers.tls.handshakes import Handshakes
    from workers.tls.records import Codec

_EVENTS_MAX = 256
"""Events taken in one turn. The rows of one turn go to the writer together."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerStart:
    """What a worker is started with."""

    number: int  # 1 and up; also its index on the scoreboard
    serial: int  # different for every worker that is started
    settings: Settings
    keyring: Keyring
    tls: "TlsFiles | None"
    guess_table: GuessTable


def main(
    control: socket.socket, bell: socket.socket, scoreboard: Scoreboard, start: WorkerStart
) -> None:
    """Run worker number `start.number` until the listener says to stop or has died."""
    become_child(f"worker {start.number}")
    settings, keyring, commit_queue = start.settings, start.keyring, CommitQueue()
    reader = BookReader(settings.path, scoreboard)
    context = Context(
        vault=Vault(keyring),
        key_path=settings.key_path,
        ids=IdClock(start.serial),
        commit_queue=commit_queue,
        name_queues=NameQueues(commit_queue, settings.save_timeout_s),
        reader=reader,
        registry=Registry(reader, keyring.for_purpose("application")),
        audit=AuditLog(settings.audit_path, settings.audit_head_path, keyring.for_purpose("audit")),
        throttle=Throttle(start.guess_table, start.number),
        checks=Checks(settings.save_timeout_s),
        scoreboard=scoreboard,
        bell=bell,
        versions_kept=settings.versions_kept,
    )
    Worker(control, context, start).run()


class Worker:
    """The connections of one process and the loop that serves them."""

    def __init__(self, control: socket.socket, context: Context, start: WorkerStart) -> None:
        self._control = control
        self._context = context
        self._commit_queue = context.commit_queue
        self._settings = start.settings
        self._number = start.number
        self._connections: dict[int, Connection] = {}
        self._intake = Intake(context, start.settings)
        self._touched: set[Connection] = set()  # have something to send, or need another look
        self._watched: set[Connection] = set()  # have a deadline
        self._writer: socket.socket | None = None
        self._writer_events = 0
        self._checker: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._listener_gone = False
        self._epoll = select.epoll()
        self._lookout = Lookout(self._epoll, COMMIT_AWAITED_S, _EVENTS_MAX)
        self._epoll.register(control, select.EPOLLIN)
        self._handshakes: Handshakes | None = None
        if start.tls is not None:
            from workers.tls import handshakes  # noqa: PLC0415

            self._handshakes = handshakes.Handshakes(
                start.tls.context(), start.settings.handshake_timeout_s
            )
            self._epoll.register(self._handshakes, select.EPOLLIN)

    def run(self) -> None:
        """Serve until told to stop and all is answered, or until the listener has died."""
        next_tick = 0.0
        while not self._listener_gone and (
            not self._stopping or self._connections or not self._commit_queue.empty
        ):
            self._turn(self._wait())
            if self._context.now >= next_tick:
                self._tick()
                next_tick = self._context.now + TICK_S

    def _wait(self) -> Events:
        """Wait for events. While a batch is in flight, busy-wait before sleeping."""
        if self._intake.waiting:
            return self._epoll.poll(0, _EVENTS_MAX)
        if self._commit_queue.in_flight:
            events = self._lookout.look()
            if events:
                return events
        return self._epoll.poll(TICK_S, _EVENTS_MAX)

    def _turn(self, events: list[tuple[int, int]]) -> None:
        context = self._context
        now_ns = time.time_ns()
        context.now_ms = now_ns // 1_000_000
        context.ids.advance(now_ns)
        context.now = time.monotonic()
        connections, touched, intake = self._connections, self._touched, self._intake
        handshakes, shake = self._handshakes, False
        for fd, event in events:
            connection = connections.get(fd)
            if connection is not None:
                if event == select.EPOLLOUT:
                    touched.add(connection)
                else:
                    intake.add(connection)
            elif fd == self._control.fileno():
                self._on_control()
            elif self._writer is not None and fd == self._writer.fileno():
                self._on_writer()
            elif self._checker is not None and fd == self._checker.fileno():
                self._on_checker()
            elif handshakes is not None and fd == handshakes.fileno():
                shake = True
        intake.do_lines()
        if intake.waiting:
            if touched:
                self._send_all()  # single requests are answered before the queued connections
            intake.do_rest()
        self._send_all()
        if handshakes is not None and shake:
            self._shake_hands(handshakes)
            self._send_all()

    def _send_all(self) -> None:
        """Send the writer its batch, and send each touched connection its replies."""
        context, connections, touched = self._context, self._connections, self._touched
        self._commit_queue.send()
        self._expect_writer()
        if context.audit.pending and not context.audit.write():
            for connection in connections.values():
                connection.withhold()
        for connection in touched:
            if connection.flush():
                self._look_after(connection)
        touched.clear()

    def _look_after(self, connection: Connection) -> None:
        """Update a connection's epoll events and deadline; forget it if it is closed."""
        if connection.closed:
            if self._connections.get(connection.fd) is connection:
                del self._connections[connection.fd]
                self._watched.discard(connection)
                self._count_closed(1)
            return
        wants = connection.wants
        if wants != connection.events:
            if not wants:  # epoll reports a reset even if no event is asked for
                self._epoll.unregister(connection.fd)
            elif not connection.events:
                self._epoll.register(connection.fd, wants)
            else:
                self._epoll.modify(connection.fd, wants)
            connection.events = wants
        if connection.waiting:
            self._watched.add(connection)

    def _count_closed(self, connections: int) -> None:
        """Tell the listener that this many connections have ended, so it may send more."""
        self._context.scoreboard.add_closed(self._number, connections)

    # --- The listener. ---

    def _on_control(self) -> None:
        while (message := receive_control(self._control)) is not None:
            text, descriptors = message
            if text[:1] == CLIENTS:
                for fd in descriptors:
                    self._add_client(fd)
                if lost := text[1] - len(descriptors):
                    log.warning("%d connections were dropped: too many open files", lost)
                    self._count_closed(lost)
            elif text == WRITER:
                self._change_writer(descriptors)
            elif text == CHECKER:
                self._change_checker(descriptors)
            elif text == TLS:
                self._change_certificates(descriptors)
            elif text == STOP:
                self._stopping = True
                # Handle what was received earlier before `drain` receives more.
                self._intake.do_lines()
                self._intake.do_rest(all_of_it=True)
                _wake(self._context.delays.end())
                if self._handshakes is not None:
                    self._count_closed(self._handshakes.close())
                for connection in self._connections.values():
                    connection.drain()
                self._touched.update(self._connections.values())
            else:
                self._listener_gone = True
                return

    def _add_client(self, fd: int) -> None:
        client = socket.socket(fileno=fd)
        client.setblocking(False)
        if self._handshakes is not None and client.family != socket.AF_UNIX:
            self._handshakes.add(client, self._context.now)
        else:
            self._connect(client).receive()  # most clients have sent their first request by now

    def _connect(self, client: socket.socket, codec: "Codec | None" = None) -> Connection:
        """Make a connection of a client's socket, start to serve it and return it."""
        connection = Connection(client, self._context, self._settings, self._touched, codec)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._touched.add(connection)
        return connection

    # --- TLS. ---

    def _shake_hands(self, handshakes: "Handshakes") -> None:
        """Advance the handshakes for a moment; serve the clients that have finished theirs."""
        for arrival in handshakes.work():
            connection = self._connect(arrival.client, arrival.codec)
            if arrival.codec is None:
                connection.turn_away(arrival.data)
            elif arrival.data:
                connection.receive_records(arrival.data)

    def _change_certificates(self, descriptors: list[int]) -> None:
        """Use new certificates for handshakes that begin from now on."""
        from workers.tls.certificates import TlsFiles  # noqa: PLC0415

        assert self._handshakes is not None
        try:
            files = [TlsFiles.from_descriptor(descriptor) for descriptor in descriptors]
            self._handshakes.context = files[0].context()
        except (OSError, IndexError):  # too few descriptors; the listener tested the rest
            log.error("too many open files to take new certificates: the old ones stay")

    # --- The writer. ---

    def _change_writer(self, descriptors: list[int]) -> None:
        if self._writer is not None:
            self._on_writer()  # read the last answers of the old writer
        if descriptors:
            self._writer = socket.socket(fileno=descriptors[0])
            self._writer.setblocking(False)
            self._settle(self._commit_queue.attach(self._writer))
            self._writer_events = select.EPOLLIN
            self._epoll.register(self._writer, select.EPOLLIN)

    def _on_writer(self) -> None:
        answered, gone = self._commit_queue.receive()
        self._settle(answered)
        if gone:
            self._writer = None
            self._settle(self._commit_queue.detach())
        elif not self._ready and self._commit_queue.newest_id is not None:
            self._context.ids.after(self._commit_queue.newest_id)
            self._context.refresh()
            self._ready = True
            say_ready(self._control)

    def _expect_writer(self) -> None:
        """Wait for room in the channel to the writer if it was full."""
        if self._writer is not None:
            events = select.EPOLLIN | (select.EPOLLOUT if self._commit_queue.unsent else 0)
            if events != self._writer_events:
                self._epoll.modify(self._writer, events)
                self._writer_events = events

    def _settle(self, batches: list[Batch]) -> None:
        for batch in batches:
            assert batch.outcome is not None
            for run in batch.runs:
                run.settle(batch.outcome)
            batch.runs.clear()  # break the reference cycle: a run refers to its batch
            if batch.senders:
                _wake(self._context.name_queues.settle(batch, self._context.now))

    # --- The checker. ---

    def _change_checker(self, descriptors: list[int]) -> None:
        if descriptors:
            self._checker = socket.socket(fileno=descriptors[0])
            self._checker.setblocking(False)
            _wake(self._context.checks.attach(self._checker))
            self._epoll.register(self._checker, select.EPOLLIN)

    def _on_checker(self) -> None:
        answered, gone = self._context.checks.receive()
        _wake(answered)
        if gone:
            self._checker = None
            _wake(self._context.checks.detach())

    # --- Deadlines. ---

    def _tick(self) -> None:
        now = self._context.now
        self._context.scoreboard.beat(self._number)
        if self._handshakes is not None:
            self._count_closed(self._handshakes.expire(now))
        if self._ready:
            self._context.refresh()
        _wake(self._context.delays.expire(now))
        self._settle(self._commit_queue.expire(now - self._settings.save_timeout_s))
        _wake(self._context.checks.expire(now))
        if self._context.scoreboard.crowded:
            self._make_room(now)
        for connection in list(self._watched):
            if connection.waiting:
                connection.expire(now)
                self._touched.add(connection)
            else:
                self._watched.discard(connection)
        if self._touched:
            self._turn([])

    def _make_room(self, now: float) -> None:
        """End idle connections, because new clients wait for room."""
        for connection in self._connections.values():
            if connection.is_unused(now):
                connection.ending = True
                self._touched.add(connection)


def _wake(waiters: Iterable[Waiter]) -> None:
    """Make the waiting connections send the replies that are known now."""
    for waiter in waiters:
        waiter.settle()
