"""What every child process of the listener does: how it begins, and what it is told."""

import contextlib
import gc
import signal
import socket

import setproctitle

from pwserver import logs
from pwserver.handoff import send_control

CLIENTS = b"C"  # to a worker: sockets of clients; how many (one byte) follows
WRITER = b"W"  # to a worker: its channel to the writer, in place of the last one
CHECKER = b"K"  # to a worker: its channel to the checker, in place of the last one
CHANNEL = b"N"  # to the writer or the checker: the channel to a worker
STOP = b"S"  # finish what was received and end
READY = b"R"  # to the listener: give me work


def become_child(name: str) -> None:
    """Take on a name in the process list, and leave signals to the listener.

    A terminal sends SIGINT, and a service manager SIGTERM, to every process at once; the listener
    alone decides in which order things end.
    """
    setproctitle.setproctitle(f"pwserver: {name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure(name)
    gc.collect()
    gc.freeze()  # what was loaded at the start is never garbage


def say_ready(control: socket.socket) -> None:
    """Tell the listener that there may be work; where it is gone, the loop will notice."""
    with contextlib.suppress(OSError):
        send_control(control, READY)
