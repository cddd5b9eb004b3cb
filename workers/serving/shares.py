"""How much of a bounded store each caller takes, so that no caller can take what others need.

A caller may add something as long as it has less in the store than is free. So a caller that adds
without end takes half of the store, two take a third each, and `n` take 1/(n + 1) each: there is
always room for one more. This is the dynamic threshold of A. K. Choudhury and E. L. Hahne, "Dynamic
Queue Length Thresholds for Shared-Memory Packet Switches" (1998), with a factor of 1.

A caller is an application, whatever its connections, addresses and tokens. All clients without a
token are one caller: such a client can have every address of 127.0.0.0/8, so a share for each
address would give it as many shares as it likes. Who needs a share of its own gets a token.
"""

Who = str | None
"""A caller: the name of an application, or None for all clients without a token."""


def named(who: Who) -> str:
    """Return what a refusal calls a caller."""
    return "clients without a token" if who is None else "this application"


class Shares:
    """What is in a store of `most` units (bytes, requests), in all and of each caller."""

    __slots__ = ("_most", "_of", "total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[Who, int] = {}
        self.total = 0

    def full(self, who: Who) -> bool:
        """Tell whether a caller may add nothing now."""
        return self._of.get(who, 0) >= self._most - self.total

    @property
    def may_be_full(self) -> bool:
        """Whether some caller may have its share; with less than half in the store none has."""
        return 2 * self.total >= self._most

    def add(self, who: Who, size: int) -> None:
        """Count what a caller has added."""
        self._of[who] = self._of.get(who, 0) + size
        self.total += size

    def remove(self, who: Who, size: int) -> None:
        """Count what of a caller's has left the store."""
        self.total -= size
        left = self._of.get(who, 0) - size
        if left:
            self._of[who] = left
        else:
            self._of.pop(who, None)

    def clear(self) -> None:
        """Count the store as empty."""
        self._of.clear()
        self.total = 0
