"""What all child processes of the listener share: their start, and the control messages."""

import contextlib
import ctypes
import gc
import signal
import socket
import traceback
from pathlib import Path

import setproctitle

from pwserver import logs
from pwserver.errors import PwserverError
from pwserver.fork_server import LISTENERS_SIGNALS
from pwserver.ipc import send_control
from pwserver.protection import lock_memory, protect_memory

CLIENTS = b"C"  # to a worker: clients' sockets; their number (one byte) follows
WRITER = b"W"  # to a worker: its channel to the one that writes, in place of the last one
CHECKER = b"K"  # to a worker: its channel to the checker, in place of the last one
CHANNEL = b"N"  # to the worker that writes, or the checker: the channel to another worker
TLS = b"T"  # to a worker: new certificates, in a file in memory
SETTINGS = b"O"  # to a worker: other settings, in a file in memory
STOP = b"S"  # finish what was received and end; the worker that writes ends at the second one
HAND_OVER = b"H"  # to a worker: as STOP, but give the clients' connections away
MOVED = b"M"  # to the listener: clients' sockets to go on with; in the form of CLIENTS
ENDED = b"E"  # to the listener: the same, but of clients that were told the end
READY = b"R"  # to the listener: this child can take work
ENDING = b"X"  # to the listener: this child ends by itself; the reason (a text) follows
VISITOR = b"V"  # from the monitor: the end of a client's connection; its address follows
FATAL = b"F"  # to the listener: end the service; an exit code (one byte) and the reason follow

_PR_SET_CHILD_SUBREAPER = 36
_REASON_BYTES_MAX = 2000

_GARBAGE_LOOKED_FOR = 20_000
"""New objects after which the garbage collector runs. The usual paths make no cyclic garbage, and
the default (700) would cost a twentieth of a worker's time."""


def adopt_orphans() -> None:
    """Become the parent of the children of a fork server when it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def ignore_signals() -> None:
    """Ignore the signals that the listener handles.

    A terminal sends SIGINT and SIGHUP, and a service manager SIGTERM, to every process at once, but
    the listener alone decides in which order the processes end.
    """
    for number in LISTENERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LISTENERS_SIGNALS)


def become_child(name: str) -> None:
    """Set up a child: its name in the process list, its signals, log and garbage collector."""
    protect_memory()
    lock_memory()
    setproctitle.setproctitle(f"pwserver: {name}")
    ignore_signals()
    logs.configure(name)
    gc.collect()
    gc.freeze()  # modules loaded at the start are never garbage
    gc.set_threshold(_GARBAGE_LOOKED_FOR)


def say_why(control: socket.socket, error: Exception) -> None:
    """Send the listener one line about the error that ends this process.

    Only errors of the system, of imports and of our own have texts that cannot hold a secret.
    """
    reason = ""
    if isinstance(error, OSError):
        reason = f": {error.strerror or 'no reason is given'}"
    elif isinstance(error, ImportError | PwserverError):
        reason = f": {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}{reason} ({Path(last.filename).name}, line {last.lineno})"
    with contextlib.suppress(OSError):
        send_control(control, ENDING + text.encode(errors="replace")[:_REASON_BYTES_MAX])


def say_fatal(control: socket.socket, error: PwserverError) -> None:
    """Tell the listener to end the service, because of an error that another start would meet."""
    text = FATAL + bytes([error.exit_code]) + str(error).encode()[:_REASON_BYTES_MAX]
    with contextlib.suppress(OSError):  # the listener may be dead
        send_control(control, text)


def say_ready(control: socket.socket) -> None:
    """Tell the listener that this child can take work. If it is gone, the loop will notice."""
    with contextlib.suppress(OSError):
        send_control(control, READY)
