"""Which of several hosts the next connection is tried with.

libpq takes a list of hosts, but without waiting (`PQconnectPoll`) it stays with one that does not
answer. So each connection is tried with one host alone, and a host that was silent is left out for
a while.
"""

from itertools import zip_longest

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_WAIT_S = 2.0
"""How long a host may take to answer, unless `connect_timeout` says it."""

_LEFT_OUT_S = 10.0


class Hosts:
    """The hosts of a connection string, each with the rest of it."""

    def __init__(self, conninfo: str) -> None:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        parts.setdefault("application_name", "pwserver")
        self.wait_s = float(parts.get("connect_timeout", 0)) or _WAIT_S
        names = [name for name in ("host", "hostaddr", "port") if name in parts]
        lists = [parts.pop(name).split(",") for name in names]
        several = max(map(len, lists), default=1)
        lists = [each * several if len(each) == 1 else each for each in lists]
        ways = [dict(zip(names, one, strict=True)) for one in zip_longest(*lists, fillvalue="")]
        self._each = [
            make_conninfo("", **parts, **{name: value for name, value in way.items() if value})
            for way in ways or [{}]
        ]
        self._not_before = [0.0] * len(self._each)
        self._at = -1
        self._tries = 0

    @property
    def round_is_over(self) -> bool:
        """Whether all hosts were tried, so that it is time for a pause."""
        return self._tries >= len(self._each)

    def next_one(self, now: float) -> str:
        """Return how to connect to the next host."""
        if self.round_is_over:
            self._tries = 0
        number = len(self._each)
        order = [(self._at + step) % number for step in range(1, number + 1)]
        at = next((at for at in order if now >= self._not_before[at]), order[0])
        self._tries += 1 + order.index(at)
        self._at = at
        return self._each[at]

    def was_silent(self, now: float) -> None:
        """Leave the host that was tried last out for a while."""
        self._not_before[self._at] = now + _LEFT_OUT_S
