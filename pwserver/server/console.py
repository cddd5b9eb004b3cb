"""The console process: prints the users on standard output when a listing is wanted.

A process of its own, which runs when no other wants the processor (SCHED_IDLE): a console that is
slow, blocked or closed holds up nobody, and a million users are listed without slowing a reply. It
reads a page of users, prints it, and forgets it. After a listing it rests ten times as long as the
listing took, and a second at least, so that nobody can fill a log with listings: requests that come
meanwhile share the next one. What it is to print comes from a function: it knows of no database.
"""

import contextlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pwserver.ipc import Scoreboard, receive_control
from pwserver.text import visible

log = logging.getLogger(__name__)

_LAST_PAGE_S = 0.5
"""How long a stop waits for the page that is being printed."""

_RESTS = 10
"""How many times as long as a listing took the console rests after it."""

_REST_S_MIN = 1.0
"""How long it rests at least: the audit record has a record of each listing of a small book too."""

Line = tuple[int, str, str]  # id, username, time saved


@dataclass(frozen=True)
class ConsoleStart:
    """What the console is started with."""

    become: Callable[[str], None]  # takes on a process's name and its duties
    pages: Callable[[], Iterator[list[Line]]]  # reads the users, a page at a time, when called


def main(
    control: socket.socket, bell: socket.socket, scoreboard: Scoreboard, start: ConsoleStart
) -> None:
    """Print listings until the listener is gone or says to stop."""
    start.become("console")
    with contextlib.suppress(OSError):  # where a sandbox forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    printing = threading.Lock()
    arguments = (bell, scoreboard, start, printing)
    threading.Thread(target=_print_listings, args=arguments, daemon=True).start()
    control.setblocking(True)
    message = receive_control(control)
    if message and message[0]:  # a stop, and not the listener's death: end behind a whole line
        printing.acquire(timeout=_LAST_PAGE_S)
    os._exit(0)  # the printer may be blocked for ever


def _print_listings(
    bell: socket.socket, scoreboard: Scoreboard, start: ConsoleStart, printing: threading.Lock
) -> None:
    while True:
        if not scoreboard.listing_wanted:
            select.select([bell], [], [])
        if select.select([bell], [], [], 0)[0]:
            bell.recv(4096)
        scoreboard.listing_wanted = False  # before it begins: who asks from now on gets another
        began_s = time.monotonic()
        try:
            for page in start.pages():
                lines = "".join([line(*user) for user in page])
                try:
                    with printing:
                        sys.stdout.write(lines)
                        sys.stdout.flush()
                except (OSError, ValueError):  # it was closed: there is nobody to print for
                    return
        except (ArithmeticError, AttributeError, OSError, TypeError, ValueError):
            log.error("a listing ended early, at what cannot be read; see `pwserver check`")
        time.sleep(rest_s(time.monotonic() - began_s))


def rest_s(took_s: float) -> float:
    """Return how many seconds the console rests after a listing that took so many."""
    return max(_REST_S_MIN, _RESTS * took_s)


def line(user_id: int, username: str, saved: str) -> str:
    """Return the console's line for a user: id, username and time saved, between tabs."""
    return f"{user_id}\t{visible(username)}\t{saved}\n"
