"""The children of the listener: it starts them, notices when they die or hang, and replaces them.

`Child` is one process and its control channel. `Pool` is all of them, and the fork server from
which they are forked. The caller says what a child does. A child's control channel reads
end-of-file as soon as the process is gone, however it ended, and that alone tells a death. Nothing
here waits for another process.
"""

import contextlib
import itertools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pwserver.fork_server import ForkServer
from pwserver.ipc import Scoreboard, control_channel, send_control
from pwserver.limits import RESTART_PAUSE_S_MAX, TICK_S
from pwserver.logs import Style

log = logging.getLogger(__name__)

_PAUSE_S_MIN = 0.05
_DOUBLINGS_MAX = 16
"""Enough to reach the longest pause, and few enough that no number overflows."""

_HEALTHY_S = 1.0
"""A child that lived for longer is started again at once; a younger one, after a growing pause."""

_SUSPECT_S = 1.0
"""A child silent for longer gets no new work. It may still recover before it is replaced."""

_START_ALLOWANCE = 6
"""A process that is not ready yet may be silent for so many times as long."""

_FORK_S_MAX = 3.0
"""How long the fork server may take to fork a child before it is replaced. A fork takes
milliseconds; a fork server that needs longer was stopped, or waits for a disk."""

_LAST_WAIT_S = 1.0
_LOOK_PAUSE_S = 0.005

FAILED_STARTS_MAX = 20
"""How often in a row a child may end by itself before it is ready. Then the service ends too,
because another start would fail as well."""


class Descriptor(Protocol):
    """A socket or another open file, to be given to a child."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it here."""


class Child:
    """One process: `target` is run in it with the control channel and what `arguments` returns."""

    def __init__(
        self,
        name: str,
        number: int,
        target: Callable[..., None],
        arguments: Callable[[], tuple[Any, ...]],
        *,
        watched: bool = True,
    ) -> None:
        self.name = name
        self.number = number  # its place on the scoreboard
        self.watched = watched  # whether it beats, so that a hang can be told
        self.control: socket.socket | None = None
        self.ready = False
        self.restart_at: float | None = 0.0  # None while it runs
        self._target = target
        self._arguments = arguments
        self._request = 0  # to the fork server, from which it comes
        self._pid = 0  # once that has answered
        self._kill = False  # as soon as it has answered
        self._outbox: deque[tuple[bytes, list[Descriptor]]] = deque()
        self._started_at = 0.0
        self._short_lives = 0
        self.failed_starts = 0  # in a row
        self._beats = -1
        self._silent_ticks = 0

    @property
    def responsive(self) -> bool:
        """Whether to give it work: ready, with room in its channel, and lately alive."""
        lately = self._silent_ticks * TICK_S <= _SUSPECT_S
        return self.ready and not self._outbox and lately

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.control is not None

    def start(self, fork_server: ForkServer, request: int, now: float) -> None:
        """Have the process started; `request` is a number that no other child has.

        Raises OSError if the system has no room for it now.
        """
        self._started_at = now
        ours, theirs = control_channel()
        with theirs:
            try:
                fork_server.request(request, self._target, (theirs, *self._arguments()), now)
            except BaseException:
                ours.close()
                raise
        self.control, self._request, self._pid, self._kill = ours, request, 0, False
        self.ready, self.restart_at = False, None
        self._silent_ticks = 0

    def forked(self, request: int, pid: int) -> bool:
        """Note the process id that the fork server has answered; return whether it is this one."""
        if self.control is None or request != self._request:
            return False
        self._pid = pid
        if self._kill:
            self.kill()
        return True

    def became_ready(self) -> None:
        """Note that there may be work for it."""
        self.ready, self.failed_starts = True, 0

    def post(self, text: bytes, files: Sequence[Descriptor] = ()) -> None:
        """Send a message with open files, now or when there is room; then close the files here.

        Messages arrive in their order. A child that is not running gets none of them.
        """
        self._outbox.append((text, list(files)))
        if self.control is None:
            self._empty_outbox()
        else:
            self.flush()

    def flush(self) -> None:
        """Send what waits for room in the control channel. To be called every turn."""
        while self._outbox and self.control is not None:
            text, files = self._outbox[0]
            try:
                send_control(self.control, text, [each.fileno() for each in files])
            except OSError:  # it is full, or the child has died, which the loop notices soon
                return
            self._outbox.popleft()
            for each in files:
                each.close()

    def _empty_outbox(self) -> None:
        for _, files in self._outbox:
            for each in files:
                each.close()
        self._outbox.clear()

    def exited(self, now: float) -> float:
        """Note that the process is gone; return the pause before the next one, in seconds.

        The pause counts from the start of the process that is gone, so that a child which is killed
        again and again lives for as long as possible in between.
        """
        lived = now - self._started_at
        self._short_lives = self._short_lives + 1 if lived < _HEALTHY_S else 0
        pause = 0.0
        if self._short_lives:
            doublings = min(self._short_lives - 1, _DOUBLINGS_MAX)
            pause = max(min(_PAUSE_S_MIN * 2**doublings, RESTART_PAUSE_S_MAX) - lived, 0.0)
        self.restart_at = now + pause
        self.ready = False
        self._empty_outbox()
        if self.control is not None:
            self.control.close()
            self.control = None
        return pause

    def kill(self) -> None:
        """Kill the process; its death is noticed like any other."""
        self._kill = True
        if self._pid and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def hangs(self, beats: int, ticks_max: float) -> bool:
        """Tell, once a tick, whether the child has shown no sign of life for too many ticks.

        Ticks are counted, not seconds: if the whole service was suspended, no child hangs. A child
        that is not ready yet gets more of them: the writer may have a large book to open.
        """
        self._silent_ticks = self._silent_ticks + 1 if beats == self._beats else 0
        self._beats = beats
        allowed = ticks_max if self.ready else ticks_max * _START_ALLOWANCE
        return self.watched and self._silent_ticks > allowed


class Pool:
    """The children, which the listener puts into `children`, and their fork server.

    The fork server is started at once and loads `modules`. Raises OSError if it cannot be started.
    `style` is that of the log lines.
    """

    def __init__(
        self,
        modules: Sequence[str],
        scoreboard: Scoreboard,
        style: Style = Style(),  # noqa: B008
        log_copy: socket.socket | None = None,
    ) -> None:
        self.children: list[Child] = []
        self.style = style
        self.fork_server = ForkServer(modules, style, log_copy)
        self._modules = modules
        self._log_copy = log_copy
        self._scoreboard = scoreboard
        self._requests = itertools.count(1)

    def start_due(
        self, children: list[Child], now: float, started: Callable[[Child], None]
    ) -> None:
        """Start each of some children whose time has come, and call `started` with it."""
        for child in children:
            if child.restart_at is not None and now >= child.restart_at:
                self._scoreboard.reset(child.number)
                try:
                    child.start(self.fork_server, next(self._requests), now)
                except OSError as error:
                    pause = child.exited(now)
                    log.error("%s cannot be started: %s; again in %.2f s", child.name, error, pause)
                else:
                    started(child)

    def read_fork_server(self) -> None:
        """Read the answers of the fork server. Raises EOFError if it is gone."""
        for request, pid in self.fork_server.answers(time.monotonic()):
            if not any(child.forked(request, pid) for child in self.children):
                log.debug("process %d was started for nobody", pid)  # it ends by itself

    def fork_server_hangs(self, now: float, hang_timeout_s: float) -> bool:
        """Tell whether the fork server takes too long to answer."""
        if self.fork_server.ready:
            return self.fork_server.unanswered_s(now) > min(_FORK_S_MAX, hang_timeout_s)
        return self.fork_server.unanswered_s(now) > hang_timeout_s * _START_ALLOWANCE

    def replace_fork_server(self) -> None:
        """Kill the fork server and start another. Starts that it had not answered are lost.

        Raises OSError if the system has no room for another process.
        """
        self.fork_server.end()
        self.fork_server = ForkServer(self._modules, self.style, self._log_copy)

    def until_start_s(self, now: float, at_most_s: float) -> float:
        """Return the seconds until the next child is due to start, at most `at_most_s`."""
        due = [child.restart_at - now for child in self.children if child.restart_at is not None]
        return max(min([at_most_s, *due]), 0.0)

    def flush(self) -> None:
        """Send the messages that wait for room. To be called every turn."""
        for child in self.children:
            child.flush()

    def kill_hanging(self, hang_timeout_s: float) -> None:
        """Kill every child that shows no sign of life. To be called once a tick."""
        for child in self.children:
            beats = self._scoreboard.beats(child.number)
            if child.running and child.hangs(beats, hang_timeout_s / TICK_S):
                log.error(
                    "%s showed no sign of life for %g s: it is killed", child.name, hang_timeout_s
                )
                child.kill()

    def kill_all(self) -> None:
        """Kill every child."""
        for child in self.children:
            child.kill()

    def close(self) -> None:
        """Kill every child and the fork server, and wait a moment for the fork server's end."""
        self.kill_all()
        self.fork_server.end()
        deadline = time.monotonic() + _LAST_WAIT_S
        while not self.fork_server.reaped() and time.monotonic() < deadline:
            time.sleep(_LOOK_PAUSE_S)


def reap() -> None:
    """Reap processes that have ended: fork servers, and the children of those that died."""
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
