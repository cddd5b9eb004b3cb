"""One client's connection: its bytes in, its replies out, in the order of its requests.

Reads and writes its socket, but knows nothing of the loop: the loop calls `receive` and `flush`
when they can do something, and `wants` tells it which events to wait for next.

Two queues keep the order. `awaited` holds replies that are not known yet, because a write waits for
the writer, and the replies after them. `_held` holds requests that must see the effect of those
writes, or for which there is no time in this turn, and the requests after them; most of the time it
is empty. Those that wait for time are done in the next turns: the loop asks for `more_to_do`, and
`Intake` calls `go_on`.
"""

import contextlib
import socket
from collections import deque
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.errors import Unavailable
from pwserver.limits import (
    AWAITED_BYTES,
    HELD_BYTES_MAX,
    LINGER_S,
    RECEIVE_BYTES,
    REPLIES_BYTES_MAX,
    RESYNC_S,
    UNANSWERED_FEW,
)
from pwserver.tally import DENIED, outcome_of
from pwserver.wire import messages
from pwserver.wire.framing import Reader, request_reader
from pwserver.wire.messages import Bad, Request
from workers.auth.applications import ANYBODY, GUEST
from workers.auth.peers import Peer
from workers.serving.authentication import authenticate_by_certificate, denied
from workers.serving.awaited import Awaited, Later, Recorded
from workers.serving.commands import Command, Replies, command_of, groups_of
from workers.serving.context import Context
from workers.storage.answers import Pending, Steps, finish

if TYPE_CHECKING:
    from workers.tls.records import Codec

NEVER = float("inf")

UNWATCHED = -1
"""Instead of events: epoll must not report anything. It reports a reset even if no event is asked
for, again and again."""

_REQUEST_BYTES = 128
"""The approximate memory that a request takes besides its text."""

_WIDEST_LETTER = 4
"""A text takes so much more memory than bytes on the wire if one letter in it needs the most."""

_DRAIN_RECEIVES_MAX = 256
"""How often a socket is read at a stop: up to 4 MiB, more than the kernel buffers by default."""


class Connection:
    """A client's socket and all unfinished work on it."""

    __slots__ = (
        "_context",
        "_emptied",
        "_few",
        "_held",
        "_held_bytes",
        "_message_deadline",
        "_peer_closed",
        "_peer_gone",
        "_reader",
        "_replies",
        "_send_deadline",
        "_settings",
        "_socket",
        "_tls",
        "_touched",
        "_unsent",
        "_wide",
        "awaited",
        "begun",
        "certified",
        "closed",
        "ending",
        "events",
        "fd",
        "kept",
        "lingering",
        "moving",
        "peer",
        "queued",
        "reading",
        "recv",
        "settled",
        "silent_since",
        "unanswered",
    )

    def __init__(
        self,
        client: Accepted,
        context: Context,
        settings: Settings,
        touched: "set[Connection]",
        tls: "Codec | None" = None,
    ) -> None:
        self._socket = client.socket
        self._context = context
        self._settings = settings
        self._touched = touched  # the connections that must `flush`
        self._tls = tls  # None: the connection is not encrypted
        self._reader: Reader[Request] | None = None  # single lines do not need one
        self._few = min(UNANSWERED_FEW, settings.in_flight_max)
        self._held: deque[tuple[Command, list[Any], int]] = deque()  # with the bytes of each
        self._held_bytes = 0
        self._wide = False  # what was received last is not ASCII
        self._emptied = False  # the last receive found no data
        self._replies: list[bytes] = []
        self._unsent = b""
        self._peer_closed = False  # the client will send no more
        self._peer_gone = False  # replies cannot be sent; changes are still made
        self._message_deadline = NEVER  # for the rest of a message, or the newline after it
        self._send_deadline = NEVER  # for the client to read its replies, or to close
        self.fd = client.socket.fileno()
        self.recv = client.socket.recv
        self.events = EPOLLIN  # what the loop waits for now
        self.awaited: deque[Awaited] = deque()
        self.unanswered = 0  # requests
        self.certified = False  # the client has shown a certificate
        self.reading = 0  # requests that wait for an answer of the store
        self.peer = Peer(client, context.throttle, settings)
        if tls is not None and (key_hash := tls.peer_key_hash()) is not None:
            self.certified = True
            self._read(authenticate_by_certificate(context, self.peer, key_hash))
        self.silent_since = NEVER  # NEVER: the client has asked for something since the last look
        self.begun = False  # `Intake` has handled a message, which the reader has not seen
        self.queued = False  # in the queue of `Intake`
        self.settled = tls is None  # not encrypted, and no message is incomplete
        self.ending = False  # takes no more requests; closes after the last reply
        self.lingering = False  # all is answered and our side is shut: waiting for the client
        self.moving = False  # goes to another process: what was not received yet, it receives
        self.closed = False
        self.kept = 0  # bytes, as the loop has noted

    def _read(self, steps: Steps[None]) -> None:
        """Do steps before all requests; if they wait for an answer, so do the requests."""
        done = finish(steps)
        if isinstance(done, Pending):
            self.reading += 1
            done.then(self._on_read)

    def _on_read(self, done: Pending) -> None:
        self.reading -= 1
        self.settle()

    # --- Requests in. ---

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished, so that `Intake` may receive for this connection."""
        return self.settled and not (self.awaited or self._held or self.ending or self.reading)

    def touch(self) -> None:
        """Have the loop call `flush` at the end of its turn."""
        self._touched.add(self)

    def receive(self, bytes_max: int = RECEIVE_BYTES) -> None:
        """Receive data and handle its requests."""
        if self.moving and self.settled:
            return
        try:
            data = self.recv(bytes_max)
        except OSError as error:
            self.receive_nothing(error)
            return
        if self._tls is not None and data and not self.ending:
            self.receive_records(data)
        else:
            self.receive_text(data)

    def receive_nothing(self, error: OSError) -> None:
        """Handle a failed receive: no data yet, or a broken connection."""
        if isinstance(error, BlockingIOError):
            self._emptied = True
        else:
            self.lose()
            self.receive_text(b"")

    def lose(self) -> None:
        """Drop the requests and replies that are no use to a client that is gone.

        So its place is free soon. What it asked to change is changed, in its order.
        """
        if self._peer_gone:
            return
        self._peer_gone = True
        lasting = [awaited for awaited in self.awaited if awaited.lasts]
        self.awaited.clear()
        self.awaited.extend(lasting)
        self._held = deque(held for held in self._held if held[0].lasts)
        self._held_bytes = sum([len(asked) * size for _, asked, size in self._held])
        self._replies.clear()
        self.unanswered = sum([awaited.requests for awaited in lasting])
        self.unanswered += sum([len(asked) for _, asked, _ in self._held])
        self.settle()

    def end(self) -> None:
        """Take no more requests, and close after the replies to those that have arrived."""
        self.ending = True
        self.touch()

    def receive_records(self, data: bytes) -> None:
        """Handle TLS records, as far as they are complete."""
        assert self._tls is not None
        if text := self._tls.decrypt(data):
            self.receive_text(text)
        if self._tls.ended and not self.ending:
            self.receive_text(b"")
        if answer := self._tls.unsent():  # TLS has messages of its own to send
            self._unsent += answer
            self.touch()

    def turn_away(self, last_words: bytes) -> None:
        """Send the last bytes, as they are, to a client whose handshake failed, then close."""
        self._unsent = last_words
        self.ending = True
        self.touch()

    def receive_text(self, data: bytes) -> None:
        """Handle received text, or the end of the stream (no bytes)."""
        if not data or self.ending:
            self._receive_last(data)
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = request_reader(self._settings.message_bytes_max)
        if self.begun:
            reader.begun = True
        size = reader.buffered + len(data)
        self._wide = not data.isascii() or (self._wide and reader.buffered > 0)
        self.handle(requests := reader.feed(data), size * _WIDEST_LETTER if self._wide else size)
        if reader.unsettled or self._message_deadline != NEVER:
            self._await_message(reader, begins=bool(requests))
            self.settled = self._tls is None and not reader.unsettled
            self.touch()

    def _receive_last(self, data: bytes) -> None:
        """Handle the end of the client's stream, or discard data that comes too late."""
        self.touch()
        if not data:
            self._peer_closed = True
            if not self.ending:
                self._end_message()
                self.ending = True
            if self.lingering:
                self.close()

    def _end_message(self) -> None:
        """Handle what there is of an incomplete message, because no more will come."""
        if self._reader is not None:
            self.handle(self._reader.end(), 0)

    def _await_message(self, reader: Reader[Request], begins: bool) -> None:
        """Set the deadline for the rest of a message, or end if the stream is broken."""
        self.ending = self.ending or reader.broken
        if self.ending or not reader.unsettled:
            self._message_deadline = NEVER
        elif self._message_deadline == NEVER or begins:
            wait = RESYNC_S if reader.skipping else self._settings.message_timeout_s
            self._message_deadline = self._context.now + wait

    def drain(self) -> None:
        """Receive and handle what the client has sent so far, and nothing after that."""
        self._emptied = False
        for _ in range(_DRAIN_RECEIVES_MAX):
            if self.ending or self._emptied:
                break
            self.receive()
        self.ending = True

    def move(self) -> bool:
        """Receive no more, so that another process can go on; return whether one can.

        It cannot if the client is known, or its connection is encrypted. The rest of a message
        that has begun is still received, for a moment.
        """
        if self.peer.is_known or self._tls is not None or self.ending or self._peer_gone:
            return False
        self.moving = True
        if self._message_deadline != NEVER:
            self._message_deadline = min(self._message_deadline, self._context.now + RESYNC_S)
        return True

    @property
    def movable(self) -> bool:
        """Whether the time has come: nothing is unfinished here."""
        return self.moving and not (
            self.ending or self.unanswered or self._unsent or self._replies or not self.settled
        )

    def release(self) -> Accepted:
        """Return the socket, for another process; this one has no use for it any more."""
        self.closed = True
        self._leave()
        return Accepted(self._socket, self.peer.accepted_address, self.peer.proxied)

    def handle(self, requests: list[Request | Bad], size: int) -> None:
        """Do requests, consecutive ones of a kind together; `size` is about that of their text."""
        if self._peer_gone:
            requests = [request for request in requests if command_of(request).lasts]
            if not requests:
                return
        self.unanswered += len(requests)
        if len(requests) == 1:
            self._do(command_of(requests[0]), requests, size)
        else:
            for command, group in groups_of(requests):
                self._do(command, group, size // len(requests))
        if self._replies or self._held or self.unanswered >= self._few:
            self.touch()

    def _do(self, command: Command, requests: list[Any], size: int) -> None:
        """Do requests, or hold them back: they must see a write first, or there is no time."""
        no_time = not command.quick and self._context.late
        if no_time or self._held or self._must_wait(command):
            self._hold(command, requests, size + _REQUEST_BYTES)
        else:
            self._answer(command, requests, size)

    def _hold(self, command: Command, requests: list[Any], size: int) -> None:
        self._held.append((command, requests, size))
        self._held_bytes += len(requests) * size

    def _must_wait(self, command: Command) -> bool:
        """Tell whether a command waits for the replies that are awaited now."""
        if self.reading:
            return self.peer.identifying or not command.reads
        if not self.awaited or not command.waits:
            return False
        return not command.joins(self._context, self)

    def may(self, command: Command) -> bool:
        """Tell whether this client may use a command."""
        caller = self.peer.caller
        return command.right in caller.rights and (command.guests or caller is not GUEST)

    def _answer(self, command: Command, requests: list[Any], size: int) -> None:
        """Do requests, note their replies or that they are awaited, and hold back the rest."""
        replies: Replies
        tally, kind = self._context.tally, command.kind
        application = self.peer.caller.number
        if self.may(command):
            if command.right != ANYBODY:
                self.silent_since = NEVER
            replies = command.do(self._context, self, requests)
        else:
            replies = denied(self._context, self.peer, command.right, requests)
            kind = DENIED
        tally.did(application, kind, len(requests) if replies is None else len(replies))
        if not replies:
            return
        if len(replies) < len(requests):
            left = requests[len(replies) :]
            self._held.appendleft((command, left, size))
            self._held_bytes += len(left) * size
        first, alike = replies[0], False
        if isinstance(first, bytes) and (command.quick or kind == DENIED):
            alike = True
            tally.answer(command.place, command.kind, outcome_of(first), len(replies))
        for reply in replies:
            known = reply if isinstance(reply, bytes) else reply.reply
            if not alike:
                self._count(command, reply, known)
            if known is not None and not self.awaited:
                self._replies.append(known)
                self.unanswered -= 1
            else:
                self.awaited.append(Awaited(reply) if isinstance(reply, bytes) else reply)

    def _count(self, command: Command, reply: bytes | Awaited, known: bytes | None) -> None:
        """Count a request that is answered, or have it counted when it will be."""
        if known is not None:
            self._context.tally.answer(command.place, command.kind, outcome_of(known))
        elif isinstance(reply, Later):
            reply.counted_as = command.place, command.kind, self._context.now

    def withhold(self) -> None:
        """Replace replies that need an audit record with refusals: it could not be written."""
        for index, reply in enumerate(self._replies):
            if isinstance(reply, Recorded):
                self._replies[index] = reply.refusal
        for awaited in self.awaited:
            awaited.withhold()

    def settle(self) -> None:
        """Queue the replies up to the first unknown one; do the requests that they held back."""
        self.touch()
        awaited, held = self.awaited, self._held
        while True:
            while awaited and (reply := awaited[0].reply) is not None:
                first = awaited.popleft()
                self.unanswered -= first.requests
                self._replies.append(reply)
                if isinstance(first, Later) and first.counted_as is not None:
                    command, kind, since = first.counted_as
                    outcome = outcome_of(reply)
                    self._context.tally.answer_later(command, kind, outcome, since)
            if not held or self._must_wait(held[0][0]) or self._context.late:
                return
            self._answer_held()

    def _answer_held(self) -> None:
        """Do the first requests that were held back, or some of them."""
        command, requests, size = self._held.popleft()
        self._held_bytes -= len(requests) * size
        self._answer(command, requests, size)

    @property
    def more_to_do(self) -> bool:
        """Whether requests wait for nothing but their turn, and the client takes its replies."""
        if not self._held or self._must_wait(self._held[0][0]):
            return False
        return len(self._unsent) <= min(REPLIES_BYTES_MAX, self._context.kept.share)

    def go_on(self) -> None:
        """Do requests for which there was no time before: at least one, and more if there is time.

        To be called only if there is `more_to_do`.
        """
        self._answer_held()
        self.settle()

    # --- Replies out. ---

    def flush(self) -> bool:
        """Send the replies that are ready; return whether the loop must look at the connection.

        True means that the loop must check `wants`, `waiting` and `closed`; False, that the
        connection only waits for the client's next request.
        """
        if self._replies:
            replies = b"".join(self._replies)
            self._replies.clear()
            if self._tls is not None:
                replies = self._tls.encrypt(replies)
            self._unsent = self._unsent + replies if self._unsent else replies
        if self._unsent:
            self._send()
        if self.ending and not (self.unanswered or self._unsent or self.lingering):
            self._finish()
        return (
            self.events != EPOLLIN
            or bool(self._unsent)
            or self.ending
            or self._message_deadline != NEVER
            or self.unanswered >= self._few
            or bool(self._held)
            or self.kept > 0
            or self.moving
        )

    def _send(self) -> None:
        if self._peer_gone or self.closed:
            self._give_up_sending()
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # epoll reports it in the next turn, and then `lose` is called
            self._give_up_sending()
            return
        if sent == len(self._unsent):
            self._unsent = b""
            self._send_deadline = NEVER
            return
        self._unsent = self._unsent[sent:]
        if sent or self._send_deadline == NEVER:
            self._send_deadline = self._context.now + self._settings.send_timeout_s

    def _give_up_sending(self) -> None:
        self._unsent = b""
        self._send_deadline = NEVER

    def turn_out(self, reason: str) -> None:
        """Close at once, although the client did nothing wrong; what it saves is still done.

        The reason is sent if no reply is unfinished.
        """
        if not (self._unsent or self._replies or self.awaited or self.closed):
            words = messages.refusal(Unavailable(reason), UNSET)
            with contextlib.suppress(OSError):
                self._socket.send(words if self._tls is None else self._tls.encrypt(words))
        self.lose()
        self.ending = True
        self.close()

    def _finish(self) -> None:
        """Shut down our side, and give the client a moment to close its side first."""
        if self._tls is not None and (farewell := self._tls.end()):
            self._unsent = farewell
            self._send()
            if self._unsent:
                return  # `flush` sends the rest and then calls this again
        if not self._peer_closed:
            self.lingering = True
            self._send_deadline = self._context.now + LINGER_S
            try:
                self._socket.shutdown(socket.SHUT_WR)
                return
            except OSError:
                pass
        self.close()

    def close(self) -> None:
        """Close the socket. Saves that are under way are still done."""
        self.closed = True
        self._socket.close()
        self._leave()

    def _leave(self) -> None:
        self._context.registry.usage.leave(self.peer.counted)
        self.peer.counted = 0

    # --- What the loop asks. ---

    @property
    def weight(self) -> int:
        """About how many bytes it keeps for its client after a turn."""
        begun = 0 if self._reader is None else self._reader.buffered
        behind = sum([AWAITED_BYTES + len(awaited.reply or b"") for awaited in self.awaited])
        return len(self._unsent) + self._held_bytes + begun + behind

    @property
    def wants(self) -> int:
        """The epoll events to wait for; 0 for a reset only, or `UNWATCHED`."""
        if self._peer_gone:
            return EPOLLIN if self._receives else UNWATCHED
        events = EPOLLOUT if self._unsent else 0
        return events | EPOLLIN if self._receives else events

    @property
    def _receives(self) -> bool:
        """Whether to receive from the client now."""
        if self.ending:
            return self.lingering
        if self.moving and self.settled:
            return False
        crowded = self.unanswered >= self._settings.in_flight_max
        too_much = self._held_bytes > HELD_BYTES_MAX or len(self._unsent) > REPLIES_BYTES_MAX
        if crowded or too_much:
            return False
        # Who keeps nothing but the beginning of a message must be able to send the rest.
        waits = self.awaited or self._held or self._unsent
        return not (waits and self.kept > self._context.kept.share)

    def is_unused(self, now: float) -> bool:
        """Tell whether the client has no use for its place, and waits for nothing.

        It asked for nothing but what anybody may ask for, such as pings, for `idle_timeout_s`.
        """
        self.silent_since = min(self.silent_since, now)
        busy = self.awaited or self._held or self._unsent or self.ending
        return not busy and now - self.silent_since > self._settings.idle_timeout_s

    @property
    def waiting(self) -> bool:
        """Whether the connection has a deadline."""
        return self._message_deadline != NEVER or self._send_deadline != NEVER

    def expire(self, now: float) -> None:
        """End the connection if one of its deadlines has passed."""
        if self._send_deadline < now:
            self.close()
        elif self._message_deadline < now:
            self._message_deadline = NEVER
            self._end_message()
            self.ending = True
