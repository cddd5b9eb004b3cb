"""The event loop of a worker process: it serves the clients.

One turn: wait for events, receive from clients and handle their requests (for a limited time), send
the replies that are known, commit the changes, and send the replies to them. Each connection gets
its replies with one call.

Worker 1 has the `Writer`. It commits the changes of its own connections, which never leave the
process, together with the batches that the other workers have sent to it. Another worker's part of
a commit is to send its batch to worker 1 and to receive the answer in a later turn.

The listener passes client sockets over the control channel. The command table knows what a message
means; this file does not.

The loop is our own, on epoll, because the service lives by its speed: on asyncio with uvloop the
same work was 0.7 to 0.9 times as fast.
"""

import functools
import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET

from pwserver import logs
from pwserver.accepted import Accepted, accepted_from, told
from pwserver.config import Settings, settings_from
from pwserver.errors import PwserverError, Unavailable
from pwserver.ipc import SOCKETS_MAX, receive_control, send_control
from pwserver.limits import BATCH_AWAITED_S, COMMIT_AWAITED_S, LONG_TEXTS_S, TICK_S
from pwserver.tally import COUNTS, OK, SAVES, outcome_of
from workers.arrivals import Arrivals
from workers.auth.applications import limit_guests
from workers.auth.throttle import GuessTable
from workers.auth.usage import UsageTable
from workers.book.keyring import Keyring
from workers.book.models import IdClock
from workers.process import (
    CHANNEL,
    CHECKER,
    CLIENTS,
    ENDED,
    HAND_OVER,
    MOVED,
    SETTINGS,
    STOP,
    TLS,
    WRITER,
    say_ready,
)
from workers.serving.awaited import Waiter
from workers.serving.commands import COUNT, SAVE_PLAIN
from workers.serving.commit_queue import TOO_LATE, Batch, Outcome, not_saved
from workers.serving.connection import UNWATCHED, Connection
from workers.serving.context import Context
from workers.serving.intake import Intake
from workers.serving.kept import TOO_MUCH
from workers.serving.places import NO_PLACE, Places
from workers.storage.answers import Pending, Steps, finish
from workers.storage.outage import REASONS
from workers.storage.store import Link
from workers.waiting import Events, Lookout, Watched
from workers.writer import Writer

if TYPE_CHECKING:  # a service without balancers or without TLS does not load it
    from workers.tls.certificates import TlsFiles
    from workers.tls.records import Codec

_EVENTS_MAX = 256
"""Events taken in one turn. The rows of one turn are committed together."""

_AWAITED_CHANGES_MAX = 4
"""After a commit of so few changes their clients may have the service to themselves, and the next
request is worth waiting for. With more clients there is always one whose request has arrived."""

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
    usage_table: UsageTable
    places: int  # connections that this worker may have


class Loop:
    """The connections of a worker, and all else that it waits for."""

    def __init__(
        self, control: socket.socket, context: Context, start: WorkerStart, writer: Writer | None
    ) -> None:
        self._control = control
        self._writer = writer  # None: another worker writes
        self._context = context
        self._commit_queue = context.commit_queue
        self._settings = start.settings
        self._number = start.number
        self._serial = start.serial
        self._beginning: Pending | None = None  # it waits for answers of the store
        self._connections: dict[int, Connection] = {}
        self._intake = Intake(context, start.settings)
        self._touched: set[Connection] = set()  # have something to send, or need another look
        self._watched: set[Connection] = set()  # have a deadline
        self._places = Places(start.places)
        self._places_wanted = False  # somebody came when few were left
        self._kept = context.kept
        self._channel: socket.socket | None = None  # to the worker that writes
        self._channel_events = 0
        self._checker: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._handing_over = False  # another program goes on with the clients
        self._given: list[tuple[bytes, Accepted]] = []  # for the listener, not sent yet
        self._needed = writer is not None  # other processes use the database, although it stops
        self._listener_gone = False
        self._ticked_at = 0.0
        self._used_s = time.process_time()  # of the processor, until then
        self._epoll = select.epoll()
        patience_s = COMMIT_AWAITED_S if writer is None else BATCH_AWAITED_S
        self._lookout = Lookout(self._epoll, patience_s, _EVENTS_MAX)
        self._handlers: dict[int, Callable[[], None]] = {}  # of what is not a client
        self.watch(control, self._on_control)
        links = [] if writer is None else writer.committer.links
        self._links = [*links, *context.reader.links]
        for link in self._links:
            self.watch(link, functools.partial(self._on_link, link))
        self._arrivals = Arrivals(context, start.settings, start.tls, self)

    def run(self) -> None:
        """Serve until told to stop and all is answered, or until the listener has died."""
        self._look_at_the_clock()
        self._try_to_begin()
        try:
            while not self._listener_gone and not self._finished:
                self._turn(self._wait())
                if self._context.now >= self._ticked_at + TICK_S:
                    self._tick()
        finally:
            self._record_refusals(all_of_them=True)
            self._publish()
        if self._writer is not None:
            self._writer.close()

    @property
    def _finished(self) -> bool:
        """Whether this worker was told to stop, and nobody needs it any more."""
        return (
            self._stopping
            and not self._needed
            and not self._connections
            and not self._intake.waiting
            and not self._given
            and self._commit_queue.empty
        )

    def _try_to_begin(self) -> None:
        """Begin to take work, as soon as the store has said what must be known for that."""
        if not self._ready and (self._beginning is None or self._beginning.resolved):
            beginning = finish(self._begin())
            self._beginning = beginning if isinstance(beginning, Pending) else None

    def _begin(self) -> Steps[None]:
        """Begin, if the store answers; otherwise it is tried again at the next tick."""
        writer, context = self._writer, self._context
        newest_id = self._commit_queue.newest_id if writer is None else writer.newest_id()
        if newest_id is None:
            return
        try:
            serial = yield context.reader.serial(self._serial)
        except Unavailable:
            return
        yield from context.refreshed()
        context.ids = IdClock(serial)
        context.ids.advance(time.time_ns())
        context.ids.after(newest_id)
        self._ready = True
        say_ready(self._control)

    def _wait(self) -> Events:
        """Wait for events. If one is expected soon, busy-wait before sleeping."""
        if self._has_work:
            owed_s = 0.0 if self._writer is None else self._writer.owed_s
            return self._epoll.poll(max(owed_s, self._intake.rests_s), _EVENTS_MAX)
        if self._expects_event:
            events = self._lookout.look()
            if events:
                return events
        return self._epoll.poll(TICK_S, _EVENTS_MAX)

    @property
    def _has_work(self) -> bool:
        """Whether there is something to do without another event."""
        if self._intake.waiting or self._given:
            return True
        writer = self._writer
        if writer is None:
            return False
        return writer.more_to_do or (self._commit_queue.waits and writer.takes_work)

    @property
    def _expects_event(self) -> bool:
        """Whether an answer of the writer, or the next request after a commit, comes soon.

        A database server needs the processor more than who waits for it.
        """
        if self._links:
            return False
        if self._writer is None:
            return self._commit_queue.in_flight
        return 0 < self._writer.changes <= _AWAITED_CHANGES_MAX

    def watch(self, channel: Watched, handler: Callable[[], None]) -> None:
        """Call a handler whenever a channel is readable."""
        self._epoll.register(channel, select.EPOLLIN)
        self._handlers[channel.fileno()] = handler

    def _turn(self, events: list[tuple[int, int]]) -> None:
        self._look_at_the_clock()
        connections, touched, intake = self._connections, self._touched, self._intake
        others: list[int] = []
        for fd, event in events:
            connection = connections.get(fd)
            if connection is None:
                others.append(fd)
            elif event == select.EPOLLIN:
                intake.add(connection)
            else:
                self._on_other_event(connection, event)
        for fd in others:  # after the clients: a new one may get the number of a channel that ends
            if (handler := self._handlers.get(fd)) is not None:
                handler()
        if self._places_wanted:
            self._make_places()
        intake.do_lines()
        if intake.waiting:
            if touched:
                self._send_all()  # single requests are answered before the queued connections
            intake.do_rest()
        self._send_all()
        if self._writer is not None:
            self._commit(self._writer)
        if self._arrivals.shake_hands():
            self._send_all()

    def _on_other_event(self, connection: Connection, event: int) -> None:
        """Handle room for replies, and the end of a connection."""
        if event & (select.EPOLLERR | select.EPOLLHUP):
            connection.lose()
        self._touched.add(connection)
        if event != select.EPOLLOUT and connection.events & select.EPOLLIN:
            self._intake.add(connection)

    def _look_at_the_clock(self) -> None:
        """Set the time for all that is done until it is called again."""
        context = self._context
        now_ns = time.time_ns()
        context.now_ms = now_ns // 1_000_000
        context.ids.advance(now_ns)
        context.now = time.monotonic()
        context.give_time(LONG_TEXTS_S)

    def _commit(self, writer: Writer) -> None:
        """Commit what this worker and the others have received, and answer what is committed."""
        if writer.takes_work:
            try:
                writer.commit([] if writer.owed_s else self._commit_queue.take())
            except PwserverError:  # the service ends; its last words are that nobody knows
                self._commit_queue.give_up()
                self._answer()
                raise
        self._answer()
        writer.rest()

    def _answer(self) -> None:
        """Reply to the changes of this worker's own connections."""
        if batches := self._commit_queue.answered():
            self._context.now = time.monotonic()  # the commit may have taken long
            self._context.give_time(LONG_TEXTS_S)
            self._settle(batches)
            self._send_all()

    def _send_all(self) -> None:
        """Send each touched connection its replies, and another worker that writes its batch."""
        context, connections, touched = self._context, self._connections, self._touched
        if context.audit.pending and not context.write_record():
            for connection in connections.values():
                connection.withhold()
        if self._writer is None:
            self._commit_queue.send()
            self._expect_writer()
        if self._kept.is_too_much:
            self._turn_out(self._kept.to_end(), TOO_MUCH)
        for connection in touched:
            if connection.flush():
                self._look_after(connection)
        touched.clear()
        if self._given:
            self._give_away()
        context.tally.sent_replies(context.now)

    def _look_after(self, connection: Connection) -> None:
        """Update a connection's epoll events and deadline; forget it if it is closed.

        If it has more to do, it waits for its turn, also if it is closed.
        """
        if connection.more_to_do:
            self._intake.go_on(connection)
        if self._handing_over and (connection.movable or connection.lingering):
            self._release(connection)
        if (weight := connection.weight) != connection.kept:
            self._kept.note(connection, weight)
        if connection.closed:
            if self._connections.get(connection.fd) is connection:
                del self._connections[connection.fd]
                self._watched.discard(connection)
                self.count_closed(1)
            return
        wants = connection.wants
        if wants != connection.events:
            if wants == UNWATCHED:
                self._epoll.unregister(connection.fd)
            elif connection.events == UNWATCHED:
                self._epoll.register(connection.fd, wants)
            else:
                self._epoll.modify(connection.fd, wants)
            connection.events = wants
        if connection.waiting:
            self._watched.add(connection)

    def _release(self, connection: Connection) -> None:
        """Give away a connection with which this process has finished."""
        if connection.events != UNWATCHED:
            self._epoll.unregister(connection.fd)
        kind = MOVED if connection.movable else ENDED
        self._given.append((kind, connection.release()))

    def _give_away(self) -> None:
        """Send the listener the connections that it is to keep, as far as there is room."""
        for kind in (MOVED, ENDED):
            clients = [client for its, client in self._given if its == kind]
            for at in range(0, len(clients), SOCKETS_MAX):
                some = clients[at : at + SOCKETS_MAX]
                sockets = [each.socket.fileno() for each in some]
                try:
                    send_control(self._control, kind + told(some), sockets)
                except ConnectionError:  # the listener is dead
                    pass
                except OSError:  # the rest goes in the next turn
                    return
                for each in some:
                    each.socket.close()
                    self._given.remove((kind, each))

    def count_closed(self, connections: int) -> None:
        """Tell the listener that this many connections have ended, so it may send more."""
        self._context.scoreboard.add_closed(self._number, connections)

    # --- The listener. ---

    def _on_control(self) -> None:
        while (message := receive_control(self._control)) is not None:
            text, descriptors = message
            if text[:1] == CLIENTS:
                for client in accepted_from(text[1:], descriptors):
                    self._arrivals.add(client)
                if lost := text[1] - len(descriptors):
                    log.warning("%d connections were dropped: too many open files", lost)
                    self.count_closed(lost)
            elif text == WRITER:
                self._change_writer(descriptors)
            elif text == CHANNEL:
                self._add_worker(descriptors)
            elif text == CHECKER:
                self._change_checker(descriptors)
            elif text == TLS:
                self._change_certificates(descriptors)
            elif text == SETTINGS:
                self._change_settings(descriptors)
            elif text in (STOP, HAND_OVER):
                self._stop(hand_over=text == HAND_OVER)
            else:
                self._listener_gone = True
                return

    def _stop(self, *, hand_over: bool) -> None:
        """Handle what clients have sent by now, and nothing after that.

        With `hand_over`, what clients send that are not known stays in their sockets, which go to
        another program. At the second call no other process uses the database any more, so the
        writer may close it.
        """
        if self._stopping:
            self._needed = False
            return
        self._stopping, self._handing_over = True, hand_over
        self._arrivals.look_again()
        # Handle what was received earlier before `drain` receives more. What there is no time for
        # is done in the next turns, while the other processes see that this one is well.
        self._intake.do_lines()
        self._intake.do_received()
        _wake(self._context.delays.end())
        released = self._arrivals.end(release=hand_over)
        self._given += [(MOVED, client) for client in released]
        for connection in self._connections.values():
            if not (hand_over and connection.move()):
                connection.drain()
        self._touched.update(self._connections.values())

    def _change_settings(self, descriptors: list[int]) -> None:
        """Use other settings, for new connections; if there are other guests, end the old ones'."""
        try:
            settings = settings_from(descriptors[0])
        except (OSError, IndexError):  # too few descriptors
            log.error("too many open files to take new settings: the old ones stay")
            return
        if settings.guests != self._settings.guests:
            for connection in self._connections.values():
                if connection.peer.is_guest:
                    connection.end()
        self._settings = settings
        self._context.versions_kept = settings.versions_kept
        self._intake.use(settings)
        limit_guests(settings.guest_saves_per_s, settings.guest_users_max)
        logs.set_level(settings.log_level)

    def connect(self, client: Accepted, codec: "Codec | None" = None) -> Connection:
        """Make a connection of a client's socket, start to serve it and return it."""
        connection = Connection(client, self._context, self._settings, self._touched, codec)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        if self._places.are_few(self._taken):
            self._places.came(connection, self._context.now)
            self._places_wanted = True
        return connection

    def receive(self, connection: Connection) -> None:
        """Receive from a new connection. Most have sent their first request by now."""
        self._intake.add(connection)

    @property
    def _taken(self) -> int:
        """How many places are taken."""
        return len(self._connections) + len(self._arrivals)

    def _make_places(self) -> None:
        """Make room for who came when few places were left."""
        self._places_wanted = False
        connections, now = self._connections.values(), self._context.now
        self._turn_out(self._places.giving_way(connections, self._taken, now), NO_PLACE)

    def _turn_out(self, connections: list[Connection], reason: str) -> None:
        """End connections at once. No new descriptor may come before the next `_send_all`."""
        for connection in connections:
            connection.turn_out(reason)
            self._touched.add(connection)

    def _change_certificates(self, descriptors: list[int]) -> None:
        if self._arrivals.change_certificates(descriptors):
            for connection in self._connections.values():
                if connection.certified:
                    connection.end()

    # --- The worker that writes, as the others see it. ---

    def _change_writer(self, descriptors: list[int]) -> None:
        if self._channel is not None:
            self._on_writer()  # read the last answers of the old writer
        if descriptors:
            if self._channel is not None:
                del self._handlers[self._channel.fileno()]
            self._channel = socket.socket(fileno=descriptors[0])
            self._channel.setblocking(False)
            self._settle(self._commit_queue.attach(self._channel))
            self._channel_events = select.EPOLLIN
            self.watch(self._channel, self._on_writer)

    def _on_writer(self) -> None:
        assert self._channel is not None
        answered, gone = self._commit_queue.receive()
        self._settle(answered)
        if gone:
            del self._handlers[self._channel.fileno()]
            self._channel = None
            self._settle(self._commit_queue.detach())
        elif not self._ready:
            self._try_to_begin()

    def _expect_writer(self) -> None:
        """Wait for room in the channel to the writer if it was full."""
        if self._channel is not None:
            events = select.EPOLLIN | (select.EPOLLOUT if self._commit_queue.unsent else 0)
            if events != self._channel_events:
                self._epoll.modify(self._channel, events)
                self._channel_events = events

    # --- The other workers, as the worker that writes sees them. ---

    def _add_worker(self, descriptors: list[int]) -> None:
        if self._writer is not None and descriptors:
            (fd,) = descriptors
            self._writer.add_worker(fd)
            self._epoll.register(fd, select.EPOLLIN)
            self._handlers[fd] = functools.partial(self._receive_batches, self._writer, fd)

    def _receive_batches(self, writer: Writer, fd: int) -> None:
        if not writer.receive(fd):
            del self._handlers[fd]

    # --- The store, where it is a server. ---

    def _on_link(self, link: Link) -> None:
        """Take what the server has answered; what it has committed is answered in this turn."""
        link.work()
        if not self._ready:
            self._store_answered()

    def _store_answered(self) -> None:
        """Begin, and let the other workers begin, if the store has said what is needed for that."""
        if self._writer is not None:
            self._writer.tell_newest_id()
        self._try_to_begin()

    # --- Replies to changes. ---

    def _settle(self, batches: list[Batch]) -> None:
        for batch in batches:
            assert batch.outcome is not None
            self._count(batch)
            for run in batch.runs:
                run.settle(batch.outcome)
            batch.runs.clear()  # break the reference cycle: a run refers to its batch
            if batch.senders:
                _wake(self._context.name_queues.settle(batch, self._context.now))

    def _count(self, batch: Batch) -> None:
        """Count the plain saves of a batch, and the counts of users."""
        tally, outcome = self._context.tally, batch.outcome
        if batch.saves and outcome is not None:
            told = OK if outcome.done else outcome_of(not_saved(outcome, UNSET))
            tally.answer_later(SAVE_PLAIN.place, SAVES, told, batch.since, batch.saves)
        if batch.counts:
            tally.answer_later(COUNT.place, COUNTS, OK, batch.since, batch.counts)

    # --- The checker. ---

    def _change_checker(self, descriptors: list[int]) -> None:
        if descriptors:
            if self._checker is not None:
                del self._handlers[self._checker.fileno()]
            self._checker = socket.socket(fileno=descriptors[0])
            self._checker.setblocking(False)
            _wake(self._context.checks.attach(self._checker))
            self.watch(self._checker, self._on_checker)

    def _on_checker(self) -> None:
        assert self._checker is not None
        answered, gone = self._context.checks.receive()
        _wake(answered)
        if gone:
            del self._handlers[self._checker.fileno()]
            self._checker = None
            _wake(self._context.checks.detach())

    # --- Deadlines. ---

    def _tick(self) -> None:
        now, scoreboard = self._context.now, self._context.scoreboard
        scoreboard.beat(self._number)
        self._publish()
        if self._writer is not None:
            self._publish_load(now)
            self._writer.tick()
            self._answer()
        self._ticked_at = now
        self._work_links()
        self._record_refusals()
        connections = self._connections.values()
        self._turn_out(self._places.tick(connections, self._taken, now), NO_PLACE)
        if self._arrivals:
            self._arrivals.expire(now, hurry=self._places.are_few(self._taken))
        if self._ready:
            self._context.refresh()
        _wake(self._context.delays.expire(now))
        self._expire_changes(now - self._settings.save_timeout_s)
        _wake(self._context.checks.expire(now))
        if scoreboard.crowded:
            self._make_room(now)
        for connection in list(self._watched):
            if connection.waiting:
                connection.expire(now)
                self._touched.add(connection)
            else:
                self._watched.discard(connection)
        if self._touched:
            self._turn([])

    def _work_links(self) -> None:
        """Look, once a tick, for a connection to be made again, or an answer that is late."""
        for link in self._links:
            link.work()
        if self._links:
            self._store_answered()
            self._context.look_at_keys()
            if self._writer is not None:
                self._writer.committer.know_keys([*self._context.vault.keyring.keys])

    def _expire_changes(self, before: float) -> None:
        """Give up the changes queued before a time: nothing was begun for them."""
        since_ms, reason = self._context.scoreboard.outage
        outcome = Outcome(reason=REASONS[reason]) if since_ms else TOO_LATE
        self._settle(self._commit_queue.expire(before, outcome))
        _wake(self._context.name_queues.try_again(self._context.now, outcome))
        if self._writer is not None:
            self._writer.expire(before, outcome.reason)

    def _record_refusals(self, *, all_of_them: bool = False) -> None:
        """Write the numbers of refusals that are due, and what could not be written before."""
        self._context.sum_up_refusals(all_of_them=all_of_them)
        self._context.write_record()
        self._context.audit.tick()

    def _publish(self) -> None:
        """Publish what was counted, and what is open or waits."""
        context = self._context
        context.tally.publish(
            self._taken,
            self._commit_queue.bytes_queued,
            context.name_queues.bytes_queued,
            context.checks.unanswered,
        )

    def _publish_load(self, now: float) -> None:
        """Publish how much of a processor this worker has used since the last tick."""
        used_s, elapsed_s = time.process_time(), now - self._ticked_at
        share = (used_s - self._used_s) / elapsed_s
        self._context.scoreboard.writer_load = round(100 * share)
        self._used_s = used_s

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
