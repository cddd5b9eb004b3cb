"""A small event loop on epoll: descriptors, what to call when they can be read, and signals.

It knows nothing of the service. The listener runs on it; the workers have a loop of their own, in
which every microsecond counts.
"""

import select
import signal
import socket
from collections.abc import Callable, Iterable


class Loop:
    """The watched descriptors, each with the handler to call when it is readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._wakeup, self._signals = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signals.setblocking(False)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call `handler` whenever a descriptor is readable."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor. To be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def catch(self, numbers: Iterable[signal.Signals]) -> None:
        """From now on let signals only wake the loop; none is lost."""
        for number in numbers:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)

    def handle_signals(self, handler: Callable[[str], None]) -> None:
        """Call `handler` from the loop with the name of each signal that was caught."""

        def on_signal() -> None:
            for number in self._signals.recv(64):
                handler(signal.Signals(number).name)

        self.watch(self._signals.fileno(), on_signal)

    def turn(self, timeout_s: float) -> None:
        """Wait for events, at most for `timeout_s`, and call their handlers."""
        for fd, _ in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)
            if handler is not None:  # otherwise an earlier handler of this turn has removed it
                handler()
