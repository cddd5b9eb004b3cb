"""What every child process of the listener does: how it begins, and what it is told."""

import contextlib
import ctypes
import gc
import resource
import signal
import socket
import traceback
from pathlib import Path

import setproctitle

from pwserver import logs
from pwserver.fork_server import LISTENERS_SIGNALS
from pwserver.ipc import send_control

CLIENTS = b"C"  # to a worker: sockets of clients; how many (one byte) follows
WRITER = b"W"  # to a worker: its channel to the writer, in place of the last one
CHECKER = b"K"  # to a worker: its channel to the checker, in place of the last one
CHANNEL = b"N"  # to the writer or the checker: the channel to a worker
TLS = b"T"  # to a worker: new certificates, in a file in memory
STOP = b"S"  # finish what was received and end
READY = b"R"  # to the listener: give me work
ENDING = b"X"  # to the listener: why this child ends by itself (a text) follows

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_REASON_BYTES_MAX = 2000

_GARBAGE_LOOKED_FOR = 20_000
"""New objects after which the collector looks for garbage, which on the usual paths there is none
of: everything there is freed at once. By default (700) it would take a twentieth of a worker's
time."""


def protect_memory() -> None:
    """Keep what this process has in memory out of core files, and from others of the same user.

    Not dumpable means that no debugger may attach, and that `/proc` shows what is in its memory,
    its environment and its open files to root alone (prctl(2), proc(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent, a fork server, has died."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def ignore_signals() -> None:
    """Leave signals to the listener.

    A terminal sends SIGINT and SIGHUP, and a service manager SIGTERM, to every process at once; the
    listener alone decides in which order things end.
    """
    for number in LISTENERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LISTENERS_SIGNALS)


def become_child(name: str) -> None:
    """Take on a name in the process list, and leave signals to the listener."""
    protect_memory()
    setproctitle.setproctitle(f"pwserver: {name}")
    ignore_signals()
    logs.configure(name)
    gc.collect()
    gc.freeze()  # what was loaded at the start is never garbage
    gc.set_threshold(_GARBAGE_LOOKED_FOR)


def say_why(control: socket.socket, error: Exception) -> None:
    """Tell the listener of an error that ends this process, in one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {reason} ({Path(last.filename).name}, line {last.lineno})"
    with contextlib.suppress(OSError):
        send_control(control, ENDING + text.encode(errors="replace")[:_REASON_BYTES_MAX])


def say_ready(control: socket.socket) -> None:
    """Tell the listener that there may be work; where it is gone, the loop will notice."""
    with contextlib.suppress(OSError):
        send_control(control, READY)
