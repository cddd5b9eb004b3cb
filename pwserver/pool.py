"""The children of the listener: starting them, noticing that they died or hang, replacing them.

`Child` is one process and its control channel; `Pool` is all of them. What a child does is passed
in. That a child is gone is known from its control channel, which reads end-of-file the moment the
process is no more, however it ended, so nothing else is relied on (the multiprocessing fork server
may be gone itself).
"""

import contextlib
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from pwserver.handoff import Scoreboard, control_channel, send_control
from pwserver.limits import RESTART_PAUSE_S_MAX, TICK_S

log = logging.getLogger(__name__)

_PAUSE_S_MIN = 0.05
_DOUBLINGS_MAX = 16
"""More than any pause can grow by, and few enough that no number overflows."""

_HEALTHY_S = 1.0
"""A child that lived as long is started again at once; one that did not, after a growing pause."""

_SUSPECT_S = 1.0
"""A child silent for as long gets no new work; it may still come round before it is replaced."""


_START_ALLOWANCE = 6
"""How many times as long a child may be silent before it is ready."""


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
        self._process: BaseProcess | None = None
        self._outbox: deque[tuple[bytes, list[Descriptor]]] = deque()
        self._started_at = 0.0
        self._short_lives = 0
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

    def start(self, context: ForkServerContext, now: float) -> None:
        """Start the process.

        Raises OSError where the system has no room for it, EOFError where the fork server dies.
        """
        self._started_at = now
        ours, theirs = control_channel()
        with theirs:
            arguments = (theirs, *self._arguments())
            process = context.Process(
                target=self._target, args=arguments, name=self.name, daemon=True
            )
            try:
                process.start()
            except BaseException:
                ours.close()
                raise
        self.control, self._process = ours, process
        self.ready, self.restart_at = False, None
        self._silent_ticks = 0

    def post(self, text: bytes, files: Sequence[Descriptor] = ()) -> None:
        """Send a message with open files, now or when there is room; they are closed here then.

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
            except OSError:  # it is full; or the child has died, which is noticed before long
                return
            self._outbox.popleft()
            for each in files:
                each.close()

    def _empty_outbox(self) -> None:
        for _, files in self._outbox:
            for each in files:
                each.close()
        self._outbox.clear()

    def buried(self, now: float) -> float:
        """Note that the process is gone; return the pause before the next one, in seconds."""
        lived = now - self._started_at
        self._short_lives = self._short_lives + 1 if lived < _HEALTHY_S else 0
        pause = 0.0
        if self._short_lives:
            doublings = min(self._short_lives - 1, _DOUBLINGS_MAX)
            pause = min(_PAUSE_S_MIN * 2**doublings, RESTART_PAUSE_S_MAX)
        self.restart_at = now + pause
        self.ready = False
        self._empty_outbox()
        if self.control is not None:
            self.control.close()
            self.control = None
        return pause

    def kill(self) -> None:
        """End the process by force; its end is noticed like any other."""
        if self._process is not None and self._process.pid and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def hangs(self, beats: int, ticks_max: float) -> bool:
        """Tell, once a tick, whether the child has shown no sign of life for too many ticks.

        Ticks are counted, not seconds: where the whole service was suspended, nobody hangs. A child
        that is not ready yet gets more of them: the writer may have a great book to open.
        """
        self._silent_ticks = self._silent_ticks + 1 if beats == self._beats else 0
        self._beats = beats
        allowed = ticks_max if self.ready else ticks_max * _START_ALLOWANCE
        return self.watched and self._silent_ticks > allowed


class Pool:
    """All children of the listener."""

    def __init__(
        self, context: ForkServerContext, scoreboard: Scoreboard, children: list[Child]
    ) -> None:
        self.children = children
        self._context = context
        self._scoreboard = scoreboard

    def start_due(
        self, children: list[Child], now: float, started: Callable[[Child], None]
    ) -> None:
        """Start every one of some children whose time has come, and tell `started` of each."""
        for child in children:
            if child.restart_at is not None and now >= child.restart_at:
                self._scoreboard.reset(child.number)
                try:
                    child.start(self._context, now)
                except (OSError, EOFError) as error:
                    pause = child.buried(now)
                    log.error("%s cannot be started: %s; again in %.2f s", child.name, error, pause)
                else:
                    started(child)

    def until_start_s(self, now: float, at_most_s: float) -> float:
        """Return the seconds until a child is to be started, or `at_most_s` if that is sooner."""
        due = [child.restart_at - now for child in self.children if child.restart_at is not None]
        return max(min([at_most_s, *due]), 0.0)

    def flush(self) -> None:
        """Send the messages that wait for room. To be called every turn."""
        for child in self.children:
            child.flush()

    def keep_fork_server(self) -> None:
        """Start another fork server where it is gone. To be called once a tick.

        A child would have it started, too, but the listener would wait while it loads its modules,
        and accept nobody meanwhile.
        """
        with contextlib.suppress(OSError):
            forkserver.ensure_running()

    def kill_hanging(self, hang_timeout_s: float) -> None:
        """End every child that shows no sign of life. To be called once a tick."""
        for child in self.children:
            beats = self._scoreboard.beats(child.number)
            if child.running and child.hangs(beats, hang_timeout_s / TICK_S):
                log.error(
                    "%s showed no sign of life for %g s: it is killed", child.name, hang_timeout_s
                )
                child.kill()

    def kill_all(self) -> None:
        """End every child by force."""
        for child in self.children:
            child.kill()
