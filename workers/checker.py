"""The checker process: it rates the strength of passwords with zxcvbn.

It is a separate process with the lowest priority (SCHED_IDLE), because a check takes milliseconds.
It runs while nobody else needs the processor, and makes room at once: with a niceness, a worker
would wait for the end of its time slice after each sync. So only clients that ask for checks wait
for them. The checker does one question of each caller in turn, whichever workers they came from. It
skips a question whose deadline has passed, because its worker has given it up. The dictionaries (13
MiB) are loaded at the first question.

A text of the checked length that is made to take long takes zxcvbn seconds, so it is given up after
`CHECK_S_MAX` of the processor, and only its beginning is judged, for as long at most. A timer that
counts the time of this process alone (setitimer(2), ITIMER_VIRTUAL) raises an exception in zxcvbn,
which works because zxcvbn is Python throughout. What other processes do does not count.
"""

import contextlib
import logging
import marshal
import os
import select
import signal
import socket
import time
from collections import deque
from types import FrameType

from pwserver.ipc import receive_control
from pwserver.limits import CHECK_BEGINNING, CHECK_S_MAX
from workers.process import CHANNEL, become_child, say_ready
from workers.serving.checks import FAILED, PACKET_BYTES_MAX, TOO_SLOW
from workers.serving.shares import Who

_NICENESS = 19

log = logging.getLogger(__name__)


class _TooSlow(BaseException):
    """Raised in a check that takes too long. No `except Exception` of a library may catch it."""


def main(control: socket.socket) -> None:
    """Answer the workers' questions until the listener says to stop or has died."""
    become_child("checker")
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # a sandbox may forbid it
        os.nice(_NICENESS)
    questions = Questions()
    epoll = select.epoll()
    epoll.register(control, select.EPOLLIN)
    say_ready(control)
    while True:
        for fd, _ in epoll.poll(0 if questions.waiting else -1):
            if fd != control.fileno():
                questions.receive(fd)
                continue
            while (message := receive_control(control)) is not None:
                text, descriptors = message
                if text != CHANNEL:
                    return
                for descriptor in descriptors:
                    questions.add_worker(socket.socket(fileno=descriptor))
                    epoll.register(descriptor, select.EPOLLIN)
        questions.answer_one()


class Questions:
    """The workers, and their questions in a queue for each caller."""

    def __init__(self) -> None:
        self._workers: dict[int, socket.socket] = {}
        self._queues: dict[Who, deque[tuple[socket.socket, int, float, str]]] = {}

    @property
    def waiting(self) -> bool:
        """Whether there are questions."""
        return bool(self._queues)

    def add_worker(self, worker: socket.socket) -> None:
        """Take the channel to a worker."""
        worker.setblocking(False)
        self._workers[worker.fileno()] = worker

    def receive(self, fd: int) -> bool:
        """Receive a worker's questions; return whether the worker is still there."""
        worker = self._workers[fd]
        try:
            while packet := worker.recv(PACKET_BYTES_MAX):
                number, deadline, who, password = marshal.loads(packet)
                question = worker, number, deadline, password
                self._queues.setdefault(who, deque()).append(question)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self._workers.pop(fd).close()
        return False

    def answer_one(self) -> None:
        """Answer a question of the caller whose turn it is, if somebody waits for the answer."""
        if not self._queues:
            return
        who = next(iter(self._queues))
        queue = self._queues.pop(who)
        worker, number, deadline, password = queue.popleft()
        if queue:
            self._queues[who] = queue  # the caller's next turn is after that of the others
        if worker.fileno() < 0 or deadline < time.monotonic():  # the worker has died, or given up
            return
        with contextlib.suppress(OSError):  # it has died meanwhile
            worker.send(marshal.dumps((number, *check(password))))


Result = tuple[int, str, list[str]]
"""A strength (0 to 4), what is weak about the password, and what helps.

In place of a strength there may be `FAILED` or `TOO_SLOW`. The strength is zxcvbn's score: up to
10^3, 10^6, 10^8 or 10^10 guesses are enough, or more.
"""


def check(password: str) -> Result:
    """Judge a password, or its first `CHECK_BEGINNING` characters if all of it takes too long.

    Only the main thread can call this.
    """
    result = _check(password)
    if result[0] == TOO_SLOW and len(password) > CHECK_BEGINNING:
        result = _check(password[:CHECK_BEGINNING])
    return result


def _check(password: str) -> Result:
    from zxcvbn import zxcvbn  # noqa: PLC0415 - see above

    try:
        signal.signal(signal.SIGVTALRM, _end_check)
        signal.setitimer(signal.ITIMER_VIRTUAL, CHECK_S_MAX)
        try:
            found = zxcvbn(password)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooSlow:
        return TOO_SLOW, "", []
    except Exception as error:  # its text may hold the password
        log.error("a password could not be checked: %s", type(error).__name__)
        return FAILED, "", []
    return found["score"], found["feedback"]["warning"], found["feedback"]["suggestions"]


def _end_check(number: int, frame: FrameType | None) -> None:
    """End the check that the timer's signal has interrupted."""
    raise _TooSlow
