"""The checker process: it rates the strength of passwords with zxcvbn.

It is a separate process with a lower priority, because a check takes milliseconds, and almost two
seconds for a text of the checked length that is made to take long. So only clients that ask for
checks wait for them. The checker skips a question whose deadline has passed, because its worker has
given it up. The dictionaries (13 MiB) are loaded at the first question.
"""

import logging
import marshal
import os
import select
import socket
import time

from pwserver.ipc import receive_control
from workers.process import CHANNEL, become_child, say_ready
from workers.serving.checks import FAILED, PACKET_BYTES_MAX

_NICENESS = 10

log = logging.getLogger(__name__)


def main(control: socket.socket) -> None:
    """Answer the workers' questions until the listener says to stop or has died."""
    become_child("checker")
    os.nice(_NICENESS)
    workers: dict[int, socket.socket] = {}
    epoll = select.epoll()
    epoll.register(control, select.EPOLLIN)
    say_ready(control)
    while True:
        for fd, _ in epoll.poll():
            if fd in workers:
                if not _answer(workers[fd]):
                    workers.pop(fd).close()
                continue
            while (message := receive_control(control)) is not None:
                text, descriptors = message
                if text != CHANNEL:
                    return
                for descriptor in descriptors:
                    workers[descriptor] = socket.socket(fileno=descriptor)
                    epoll.register(descriptor, select.EPOLLIN)


def _answer(worker: socket.socket) -> bool:
    """Receive and answer one question of a worker; return whether the worker is still there."""
    try:
        packet = worker.recv(PACKET_BYTES_MAX)
        if packet:
            number, deadline, password = marshal.loads(packet)
            if deadline > time.monotonic():
                worker.send(marshal.dumps((number, *check(password))))
    except OSError:
        return False
    return bool(packet)


def check(password: str) -> tuple[int, str, list[str]]:
    """Return a password's strength (0 to 4, or `FAILED`), what is weak about it, and what helps.

    The strength is zxcvbn's score: up to 10^3, 10^6, 10^8 or 10^10 guesses are enough, or more.
    """
    from zxcvbn import zxcvbn  # noqa: PLC0415 - see above

    try:
        found = zxcvbn(password)
    except Exception as error:  # its text may hold the password
        log.error("a password could not be checked: %s", type(error).__name__)
        return FAILED, "", []
    return found["score"], found["feedback"]["warning"], found["feedback"]["suggestions"]
