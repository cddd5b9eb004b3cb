"""The fork server's process: it loads the modules and forks a child for each request.

The listener sends the requests through `pwserver.fork_server`. This process does nothing else and
does not read a child's arguments, because every later child would inherit what it has in memory.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys

import setproctitle

from pwserver import logs
from pwserver.fork_server import FAILED, READY, STARTED, unpack
from pwserver.ipc import receive_control, send_control
from workers.process import ignore_signals, say_why

log = logging.getLogger(__name__)

_FORK = multiprocessing.get_context("fork")
_REASON_BYTES_MAX = 2000


def main() -> None:
    """Fork a child for each request until the listener is gone."""
    ignore_signals()
    channel = socket.socket(fileno=int(sys.argv[1]))
    setproctitle.setproctitle("pwserver: fork server")
    logs.configure("fork server", logs.Style(*sys.argv[3].split(",")))
    if sys.argv[4]:
        logs.copy_to(int(sys.argv[4]))
    try:
        for module in sys.argv[2].split(","):
            importlib.import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".encode()[:_REASON_BYTES_MAX]
        with contextlib.suppress(OSError):
            send_control(channel, FAILED + reason)
        sys.exit(1)
    # The garbage collector writes to every object that it visits, which would copy the shared
    # page in each child. It never visits frozen objects.
    gc.collect()
    gc.freeze()
    _serve(channel)


def _serve(channel: socket.socket) -> None:
    wakeup, signals = socket.socketpair()
    for each in (wakeup, signals):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    own = (channel, wakeup, signals)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(signals, select.POLLIN)
    with contextlib.suppress(OSError):  # if the listener is gone, `receive_control` notices it
        send_control(channel, READY)
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            signals.recv(4096)
        multiprocessing.active_children()  # reaps those that have ended
        while (message := receive_control(channel)) is not None:
            number, descriptors = message
            if not number:
                os._exit(0)
            _fork(channel, int(number), descriptors, own)


def _fork(
    channel: socket.socket, number: int, descriptors: list[int], own: tuple[socket.socket, ...]
) -> None:
    """Fork a child. If that fails, its control channel is closed, as if the child had died."""
    child = _FORK.Process(target=_run, args=(descriptors, own), daemon=True)
    try:
        child.start()
    except OSError as error:
        log.error("no process can be forked: %s", error.strerror)
        pid = 0
    else:
        pid = child.pid or 0
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        channel.send(STARTED.pack(b"S", number, pid))


def _run(descriptors: list[int], own: tuple[socket.socket, ...]) -> None:
    """Run as a child: call the target that the listener has put into the first file."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for each in own:
        each.close()
    with os.fdopen(descriptors[0], "rb") as file:
        target, arguments = unpack(file, descriptors[1:])
    control = arguments[0]
    try:
        target(*arguments)
    except Exception as error:
        say_why(control, error)
        sys.exit(1)
