"""One client's connection: its bytes in, its replies out, in the order of its requests.

Does the reading and writing of its socket, but knows nothing of the loop that says when: `receive`
and `flush` are called when they may do something, and `wants` says what to wait for next.

Order is kept by two queues. `awaited` are replies that are not known yet, because a write waits for
the writer, and those behind them. `_held` are requests that must see the effect of those writes,
with everything behind them; it is empty most of the time.
"""

import socket
from collections import deque
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any

from pwserver.config import Settings
from pwserver.limits import LINGER_S, RECEIVE_BYTES, REPLIES_BYTES_MAX, RESYNC_S
from pwserver.wire.framing import Reader, request_reader
from pwserver.wire.messages import Bad, Request
from workers.auth.applications import GUEST
from workers.auth.peers import Peer
from workers.serving.authentication import authenticate_by_certificate, denied
from workers.serving.awaited import Awaited, Recorded
from workers.serving.commands import Command, command_of, groups_of
from workers.serving.context import Context

if TYPE_CHECKING:
    from workers.tls.records import Codec

NEVER = float("inf")

_DRAIN_RECEIVES_MAX = 256
"""How often a socket is read at a stop: 4 MiB, more than the kernel keeps by default."""


class Connection:
    """A client's socket and everything that is unfinished on it."""

    __slots__ = (
        "_context",
        "_emptied",
        "_held",
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
        "awaited",
        "closed",
        "ending",
        "events",
        "fd",
        "lingering",
        "peer",
        "queued",
        "recv",
        "settled",
        "silent_since",
        "unanswered",
    )

    def __init__(
        self,
        client: socket.socket,
        context: Context,
        settings: Settings,
        touched: "set[Connection]",
        tls: "Codec | None" = None,
    ) -> None:
        self._socket = client
        self._context = context
        self._settings = settings
        self._touched = touched  # those of which `flush` is due
        self._tls = tls  # None: what is sent and received is text
        self._reader: Reader[Request] = request_reader(settings.message_bytes_max)
        self._held: deque[tuple[Command, list[Any]]] = deque()
        self._emptied = False  # the last receive found nothing
        self._replies: list[bytes] = []
        self._unsent = b""
        self._peer_closed = False  # it will send no more
        self._peer_gone = False  # replies have nowhere to go; requests are still done
        self._message_deadline = NEVER  # for the rest of a message, or for the newline behind one
        self._send_deadline = NEVER  # for the client to take its replies, or to close
        self.fd = client.fileno()
        self.recv = client.recv
        self.events = EPOLLIN  # what the loop waits for at present
        self.awaited: deque[Awaited] = deque()
        self.unanswered = 0  # requests
        self.peer = Peer(client, context.throttle, insecure=settings.insecure)
        if tls is not None and (name := tls.peer_name()) is not None:
            authenticate_by_certificate(context, self.peer, name)
        self.silent_since = NEVER  # the client has said something since it was looked at
        self.queued = False  # `intake` has it receive in its turn
        self.settled = tls is None  # it is text, and no part of a message is awaited
        self.ending = False  # nothing more will be done for it: close once all is answered
        self.lingering = False  # all is answered and the client told: waiting for its close
        self.closed = False

    # --- Requests in. ---

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished on it, so that `intake` may receive for it."""
        return self.settled and not (self.awaited or self.ending)

    def receive(self) -> bool:
        """Take what has arrived and do it; return whether `flush` is due."""
        try:
            data = self.recv(RECEIVE_BYTES)
        except OSError as error:
            return self.receive_nothing(error)
        if self._tls is not None and data and not self.ending:
            return self.receive_records(data)
        return self.receive_text(data)

    def receive_nothing(self, error: OSError) -> bool:
        """Take note that nothing has arrived, or that nothing can any more; return as `receive`."""
        if isinstance(error, BlockingIOError):
            self._emptied = True
            return False
        self._peer_gone = True
        return self.receive_text(b"")

    def receive_records(self, data: bytes) -> bool:
        """Take what has arrived over TLS, as far as it is complete; return as `receive` does."""
        assert self._tls is not None
        text = self._tls.decrypt(data)
        due = self.receive_text(text) if text else False
        if self._tls.ended and not self.ending:
            due = self.receive_text(b"")
        if answer := self._tls.unsent():  # TLS has something to say by itself
            self._unsent += answer
        return due or bool(answer)

    def turn_away(self, last_words: bytes) -> None:
        """Send a client, which has not been let in, some bytes as they are, and then nothing."""
        self._unsent = last_words
        self.ending = True

    def receive_text(self, data: bytes) -> bool:
        """Take text that has arrived, or its end (no bytes); return as `receive` does."""
        if not data or self.ending:
            return self._receive_last(data)
        reader = self._reader
        requests = reader.feed(data)
        due = self.handle(requests)
        if reader.unsettled or self._message_deadline != NEVER:
            self._await_message(reader, begins=bool(requests))
            self.settled = self._tls is None and not reader.unsettled
            return True
        return due

    def _receive_last(self, data: bytes) -> bool:
        """Take the end of what the client sends, or throw away what it sends too late."""
        if not data:
            self._peer_closed = True
            if not self.ending:
                self.handle(self._reader.end())
                self.ending = True
            if self.lingering:
                self.close()
        return True

    def _await_message(self, reader: Reader[Request], begins: bool) -> None:
        """Set the deadline for the rest of a message, or end where nothing more can be read."""
        self.ending = reader.broken
        if self.ending or not reader.unsettled:
            self._message_deadline = NEVER
        elif self._message_deadline == NEVER or begins:
            wait = RESYNC_S if reader.skipping else self._settings.message_timeout_s
            self._message_deadline = self._context.now + wait

    def drain(self) -> None:
        """Take what the client has sent so far, and then nothing more."""
        self._emptied = False
        for _ in range(_DRAIN_RECEIVES_MAX):
            if self.ending or self._emptied:
                break
            self.receive()
        self.ending = True

    def handle(self, requests: list[Request | Bad]) -> bool:
        """Do requests, those of a kind that stand together at once; return as `receive` does."""
        self.unanswered += len(requests)
        if len(requests) == 1:
            self._do(command_of(requests[0]), requests)
        else:
            for command, group in groups_of(requests):
                self._do(command, group)
        return bool(self._replies) or self.unanswered >= self._settings.in_flight_max

    def _do(self, command: Command, requests: list[Any]) -> None:
        """Do requests, unless they must see what waits for the writer: then hold them back."""
        if self._held or (self.awaited and command.waits):
            self._held.append((command, requests))
        else:
            self._answer(command, requests)

    def may(self, command: Command) -> bool:
        """Tell whether who is at the other end may have that done."""
        caller = self.peer.caller
        return command.right in caller.rights and (command.guests or caller is not GUEST)

    def _answer(self, command: Command, requests: list[Any]) -> None:
        """Do requests, and note their replies or what to wait for."""
        if self.may(command):
            replies = command.do(self._context, self, requests)
        else:
            replies = denied(self._context, self.peer, command.right, requests)
        for reply in replies:
            known = reply if isinstance(reply, bytes) else reply.reply
            if known is not None and not self.awaited:
                self._replies.append(known)
                self.unanswered -= 1
            else:
                self.awaited.append(Awaited(reply) if isinstance(reply, bytes) else reply)

    def withhold(self) -> None:
        """Send no reply that needs a record, because there is none of it."""
        for place, reply in enumerate(self._replies):
            if isinstance(reply, Recorded):
                self._replies[place] = reply.refusal
        for awaited in self.awaited:
            awaited.withhold()

    def settle(self) -> None:
        """Answer what is known by now, up to what is not, and do what that held back."""
        self._touched.add(self)
        awaited, held = self.awaited, self._held
        while True:
            while awaited and (reply := awaited[0].reply) is not None:
                self.unanswered -= awaited.popleft().requests
                self._replies.append(reply)
            if not held or (awaited and held[0][0].waits):
                return
            self._answer(*held.popleft())

    # --- Replies out. ---

    def flush(self) -> bool:
        """Send what is ready; return whether there is more to the connection than that.

        True means that the loop must look at `wants`, `waiting` and `closed`; False, that nothing
        but the client's next request is awaited.
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
            or self.unanswered >= self._settings.in_flight_max
        )

    def _send(self) -> None:
        if self._peer_gone or self.closed:
            self._unsent = b""
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._peer_gone = True
            self._unsent = b""
            return
        if sent == len(self._unsent):
            self._unsent = b""
            self._send_deadline = NEVER
            return
        self._unsent = self._unsent[sent:]
        if sent or self._send_deadline == NEVER:
            self._send_deadline = self._context.now + self._settings.send_timeout_s

    def _finish(self) -> None:
        """Tell the client that this was all, and give it a moment to close its side first."""
        if self._tls is not None and (farewell := self._tls.end()):
            self._unsent = farewell
            self._send()
            if self._unsent:
                return  # it is sent when there is room, and then this is done again
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
        """Close the socket. Saves under way are still done."""
        self.closed = True
        self._socket.close()

    # --- What the loop asks. ---

    @property
    def wants(self) -> int:
        """The events of epoll to wait for; 0 while only the writer can move things on."""
        events = EPOLLOUT if self._unsent else 0
        if self.ending:
            return events | EPOLLIN if self.lingering else events
        crowded = self.unanswered >= self._settings.in_flight_max
        if crowded or len(self._unsent) > REPLIES_BYTES_MAX:
            return events
        return events | EPOLLIN

    def is_unused(self, now: float) -> bool:
        """Tell whether the client has said nothing for a while, and waits for nothing."""
        self.silent_since = min(self.silent_since, now)
        busy = self.awaited or self._unsent or self.ending
        return not busy and now - self.silent_since > self._settings.idle_timeout_s

    @property
    def waiting(self) -> bool:
        """Whether there is a deadline to watch."""
        return self._message_deadline != NEVER or self._send_deadline != NEVER

    def expire(self, now: float) -> None:
        """End the connection where the client has kept the service waiting for too long."""
        if self._send_deadline < now:
            self.close()
        elif self._message_deadline < now:
            self._message_deadline = NEVER
            self.handle(self._reader.end())
            self.ending = True
