"""What the service manager is told (sd_notify(3)), and the sockets that it has opened for us.

systemd gives the address of a datagram socket in `NOTIFY_SOCKET`, the longest pause between two
signs of life in `WATCHDOG_USEC`, and listening sockets from descriptor 3 on (sd_listen_fds(3)).
Without these variables nothing here does anything. Knows nothing of the service.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping

from pwserver.errors import ListenError

log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START

_WAITING_MAX = 16
"""Messages that are kept for a manager that does not read. The oldest ones go first."""


class ServiceManager:
    """The service manager, if there is one. No call waits for it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address[:1] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_MAX)
        self._beat_s = _watchdog_s(environment) / 2  # 0: no watchdog
        self._beat_at = 0.0

    def tell(self, *assignments: str) -> None:
        """Send what has changed, such as `READY=1`. If there is no room, `tick` sends it later."""
        if self._address:
            self._waiting.append("\n".join(assignments).encode())
            self._send()

    def tick(self, now: float, works: Callable[[], bool]) -> None:
        """Send what waits, and a sign of life if one is due and the service works."""
        self._send()
        if self._beat_s and now >= self._beat_at and works():
            self._beat_at = now + self._beat_s
            self.tell("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self) -> None:
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._address)
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:  # ValueError: no address can be like this
                reason = getattr(error, "strerror", None) or error
                log.warning("the service manager cannot be told anything: %s", reason)
                self._address = ""
                self._waiting.clear()
                return
            self._waiting.popleft()


def microseconds() -> str:
    """Return the assignment that belongs to `RELOADING=1`."""
    return f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def _watchdog_s(environment: MutableMapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdecimal() else 0.0


def given_sockets(environment: MutableMapping[str, str]) -> list[tuple[socket.socket, str]]:
    """Return the sockets that the service manager has opened for this process, and their names.

    Removes the variables, so that no child takes them for its own. Raises `ListenError` for a
    descriptor that is no listening stream socket.
    """
    pid = environment.pop("LISTEN_PID", "")
    number = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not number.isdecimal():
        return []
    given = []
    for place in range(int(number)):
        descriptor = _FIRST_DESCRIPTOR + place
        name = names[place] if place < len(names) and names[place] else f"descriptor {descriptor}"
        try:
            opened = socket.socket(fileno=descriptor)
            opened.set_inheritable(False)
            listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ListenError(
                f"the socket {name} of the service manager cannot be used: {error.strerror}."
            ) from None
        if not listens or opened.type != socket.SOCK_STREAM:
            opened.close()
            raise ListenError(
                f"{name} of the service manager is no stream socket that listens; correct "
                "ListenStream= in the socket unit."
            )
        given.append((opened, name))
    return given
