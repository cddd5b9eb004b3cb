"""Refusals of a kind to a peer: the first is recorded at once, those after it as a number a second.

Clients without any right can cause refusals, as many as they like: each is a few bytes to send, and
a record of 200 bytes. So a peer (an address without its port, or a user of the Unix socket) gets
one record for each kind of refusal and second. A record of several refusals (`times`) says what all
of them have in common. No refusal is left out of the numbers.

At most `PEERS_MAX` peers are told apart. The refusals of all others are counted together.

Knows neither the record's files nor its chain.
"""

from collections.abc import Iterator
from typing import Any

WINDOW_S = 1.0
"""How long refusals are counted before their number is recorded."""

PEERS_MAX = 256
"""Peers and kinds of refusals that are told apart at a time, so that memory and the record stay
bounded although a client may have very many addresses: 64 KB a second."""

OTHERS = "others"
"""The address in a record of refusals to peers that were not told apart."""

Record = dict[str, Any]
"""The arguments of `AuditLog.note`."""

_Key = tuple[str | None, str, str, str]

_IN_COMMON = ("application", "user")
"""What a record always has: None if the refusals that it stands for differ."""


class _Repeated:
    """The refusals of one kind to one peer since the last record of them."""

    __slots__ = ("in_common", "peer", "times", "until")

    def __init__(self, peer: str, until: float) -> None:
        self.peer = peer
        self.until = until  # when their number is recorded; monotonic clock, in seconds
        self.times = 0
        self.in_common: Record = {}

    def add(self, record: Record, times: int) -> None:
        """Count some more, and keep of them what all have in common."""
        if not self.times:
            self.in_common = record
        else:
            self.in_common = {
                name: value
                for name, value in self.in_common.items()
                if record.get(name) == value or name == "time_ms"
            }
            self.in_common["time_ms"] = record["time_ms"]
        self.times += times

    def take(self) -> Record:
        """Return the record of all that were counted, and begin again."""
        record = {"address": self.peer} | dict.fromkeys(_IN_COMMON) | self.in_common
        record["times"] = self.times
        self.times = 0
        return record


class Refusals:
    """The refusals of one process."""

    def __init__(self) -> None:
        self._repeated: dict[_Key, _Repeated] = {}

    def add(self, record: Record, now: float) -> Record | None:
        """Return a refusal if it must be recorded at once; otherwise count it and return None.

        `now` is in seconds of the monotonic clock.
        """
        peer, action, outcome = peer_of(record["address"]), record["action"], record["outcome"]
        key: _Key = (record["application"], peer, action, outcome)
        repeated = self._repeated.get(key)
        if repeated is None and len(self._repeated) >= PEERS_MAX:
            peer, key = OTHERS, (None, OTHERS, action, outcome)
            repeated = self._repeated.get(key)
        if repeated is None:
            self._repeated[key] = _Repeated(peer, now + WINDOW_S)
            return record
        repeated.add(record, record.get("times", 1))
        return None

    def sum_up(self, now: float) -> Iterator[Record]:
        """Yield a record for those that were counted for `WINDOW_S`; infinity means all."""
        for key, repeated in list(self._repeated.items()):
            if now < repeated.until:
                continue
            if repeated.times:
                yield repeated.take()
                repeated.until = now + WINDOW_S
            else:
                del self._repeated[key]


def peer_of(address: str) -> str:
    """Return an address without its port; one of the Unix socket is a user already."""
    return address if address.startswith("unix:") else address.rpartition(":")[0] or address
