"""How many bytes the connections of a worker keep beyond a turn, and who must give them back.

A connection keeps replies that its client does not take, requests that wait, and the beginning of a
message. Each connection has bounds for these, but there may be thousands of connections. So their
sum is bounded too: beyond it, the peer that keeps the most loses the connections that keep the
most. A peer is an application, or a machine, or a user of this machine on the Unix socket.

Before that, a connection that keeps more than a sixteenth of what is free is read no further until
it keeps less, unless that is the beginning of a message. So clients that ask for much and read the
answers stay below the bound, however many they are. It is the rule of `shares`, with a factor of a
sixteenth.

The loop notes sizes only of connections that keep something at the end of a turn. Who asks and
reads its answers keeps nothing.
"""

from typing import TYPE_CHECKING

from pwserver.limits import KEPT_BYTES_MAX

if TYPE_CHECKING:
    from workers.serving.connection import Connection

TOO_MUCH = "The service is overloaded: this client keeps too many bytes waiting."
"""What a client is told that loses its connection."""

_PART = 16
"""A connection may keep one in so many of the free bytes: with nothing else kept, all that its own
bounds allow."""

_LEFT = 0.75
"""The part of the bound that is left after connections have ended, so that it is seldom reached."""


class Kept:
    """The bytes that connections keep, each and in all."""

    def __init__(self, most: int = KEPT_BYTES_MAX) -> None:
        self._most = most
        self._sizes: dict[Connection, int] = {}
        self.total = 0

    def note(self, connection: "Connection", size: int) -> None:
        """Note how much a connection keeps now."""
        self.total += size - connection.kept
        connection.kept = size
        if size:
            self._sizes[connection] = size
        else:
            self._sizes.pop(connection, None)

    @property
    def share(self) -> int:
        """How many bytes a connection may keep now and still be read."""
        return max(0, self._most - self.total) // _PART

    @property
    def is_too_much(self) -> bool:
        """Whether connections must end."""
        return self.total > self._most

    def to_end(self) -> list["Connection"]:
        """Return the connections that must end: of the peers that keep the most, the greatest."""
        peers: dict[str, list[tuple[int, Connection]]] = {}
        for connection, size in self._sizes.items():
            if not connection.closed:
                peer = connection.peer
                who = f"application {peer.caller.number}" if peer.caller.number else peer.share
                peers.setdefault(who, []).append((size, connection))
        sums = {who: sum([size for size, _ in kept]) for who, kept in peers.items()}
        for kept in peers.values():
            kept.sort(key=lambda each: each[0])
        ending: list[Connection] = []
        excess = self.total - _LEFT * self._most
        while excess > 0 and sums:
            who = max(sums, key=sums.__getitem__)
            size, connection = peers[who].pop()
            ending.append(connection)
            excess -= size
            sums[who] -= size
            if not peers[who]:
                del sums[who]
        return ending
