"""Who gives up its place when a worker has few left, so that there is always one for who comes.

The last eighth of a worker's places is for clients that show a token. While more than the other
seven eighths are taken, clients without a token give way, until no more than these are taken. The
peer gives way that has the most places without a token, with its client that has been silent for
the longest. A client that is not silent keeps its place, unless its peer has more than its share:
as many as each peer would have if all had as many.

Whoever comes while nobody gives way may stay for some seconds. It has to show a token by then; if
no place at all is left, a new client takes its place at once.

A peer is a machine, or a user of this machine on the Unix socket (`Peer.share`).

Says which connections should end. Ends none.
"""

import heapq
from collections.abc import Collection
from operator import attrgetter
from typing import TYPE_CHECKING

from pwserver.limits import PLACES_RESERVED, TICK_S

if TYPE_CHECKING:
    from workers.serving.connection import Connection

PATIENCE_S = 5.0
"""For how long a client must be silent to give way, and how long one may take to show a token."""

NO_PLACE = (
    "The service has few places left, and this client has shown no token. Come again later, or "
    "with a token."
)
"""What a client is told that gives way."""

_AT_ONCE = 4
"""A quarter of the last places is freed at once, so that not every new client causes a search."""


class Places:
    """The places of one worker, of which there are `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._common = most - most // PLACES_RESERVED
        self._freed_at_once = most // PLACES_RESERVED // _AT_ONCE
        self._came: dict[Connection, float] = {}  # when few were left, and when that was
        self._searched = False  # in vain, since the last tick

    def are_few(self, taken: int) -> bool:
        """Tell whether only places are left that are for clients with a token."""
        return taken > self._common

    def came(self, connection: "Connection", now: float) -> None:
        """Note that a client came when few places were left."""
        self._came[connection] = now

    def giving_way(
        self, connections: Collection["Connection"], taken: int, now: float
    ) -> list["Connection"]:
        """Return the connections that give way to those that came."""
        excess = taken - self._common
        if excess <= 0 or self._searched:
            return []
        leaving = self._longest_silent(connections, excess, now)
        self._searched = len(leaving) < excess
        return leaving

    def tick(
        self, connections: Collection["Connection"], taken: int, now: float
    ) -> list["Connection"]:
        """Return the connections that give way now, or have not shown a token in time."""
        self._searched = False
        if taken > self._common // 2:
            for connection in connections:
                connection.silent_since = min(connection.silent_since, now)
        if taken <= self._common:
            self._came.clear()
            return []
        leaving = self.giving_way(connections, taken, now)
        patience_s = PATIENCE_S if taken < self._most else TICK_S
        excess = taken - self._common - len(leaving)
        for connection, since in list(self._came.items()):
            if connection.closed or connection.peer.caller.is_admitted or connection in leaving:
                del self._came[connection]
            elif excess > 0 and now - since >= patience_s:
                del self._came[connection]
                leaving.append(connection)
                excess -= 1
        return leaving

    def _longest_silent(
        self, connections: Collection["Connection"], excess: int, now: float
    ) -> list["Connection"]:
        """Return as many connections as there are too many, and a few more that are silent."""
        peers: dict[str, list[Connection]] = {}
        for connection in connections:
            if not (connection.peer.caller.is_admitted or connection.closed):
                peers.setdefault(connection.peer.share, []).append(connection)
        share = self._most if len(peers) < 2 else -(-self._common // len(peers))
        silent_before = now - PATIENCE_S
        leaving: list[Connection] = []
        for of_peer, number in _from_the_greatest(
            list(peers.values()), excess + self._freed_at_once
        ):
            beyond_share = len(of_peer) - share
            for connection in heapq.nsmallest(number, of_peer, key=attrgetter("silent_since")):
                silent = connection.silent_since <= silent_before and not connection.awaited
                if silent or (beyond_share > 0 and len(leaving) < excess):
                    leaving.append(connection)
                    beyond_share -= 1
        return leaving


def _from_the_greatest(
    groups: list[list["Connection"]], number: int
) -> list[tuple[list["Connection"], int]]:
    """Take so many off the groups, each time from the greatest; return how many of each."""
    sizes = [(-len(group), place) for place, group in enumerate(groups)]
    heapq.heapify(sizes)
    taken = [0] * len(groups)
    for _ in range(min(number, sum(map(len, groups)))):
        size, place = sizes[0]
        heapq.heapreplace(sizes, (size + 1, place))
        taken[place] += 1
    return [(group, taken[place]) for place, group in enumerate(groups) if taken[place]]
