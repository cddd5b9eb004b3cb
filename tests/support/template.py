"""A process that has the `pwserver` command loaded, and forks a copy of itself for each command.

To load the command's modules takes most of the time of a short command, and half of a service's
start; the tests run a thousand of them. A copy has everything that a new process would have: its
session, open files, folder, environment, arguments and standard streams. It runs the same `main`.

A service's first fork server is likewise a copy, of the listener at the moment at which that starts
it; it has then opened nothing but what is closed in the copy. A later one is a new process.

`tests/support/forked.py` starts this file as a program, which imports nothing from `tests` and
finds `pwserver` where `python -m pwserver` does. A request is one message on a socket: a file in
memory, the three standard files, and a socket on which first the process id of the copy is
answered, and later its exit code. The copy stays a zombie until the other end of that is closed, so
that nobody takes another process for it.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import pickle
import pkgutil
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from types import SimpleNamespace

import setproctitle

NUMBER = struct.Struct("<q")

_LOADED_LATER = (
    *("http.client", "rich.box", "rich.cells", "rich.console", "rich.progress", "rich.table"),
    *("rich.markdown", "rich.text"),
)


@dataclass(frozen=True)
class Request:
    """A command to be run: the whole line, and where and how."""

    command: list[str]  # the Python program, "-m", "pwserver" and the arguments
    folder: str
    environment: dict[str, str]
    umask: int
    on_terminal: bool  # standard input becomes the controlling terminal


def _load() -> None:
    for name in ("pwserver", "workers"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            with contextlib.suppress(ImportError):  # it needs what is not installed
                importlib.import_module(module.name)
    for name in _LOADED_LATER:
        importlib.import_module(name)
    setproctitle.setproctitle("template of pwserver")  # it looks at the environment, once
    gc.collect()
    gc.freeze()  # a copy shares the memory of what its garbage collector never visits


def _next_request(control: int) -> tuple[Request, list[int]] | None:
    """Wait for a request, and serve it in a copy of this process; return it there alone.

    Returns None when there will be no more requests.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by its handle: its process id, its socket
    ended: dict[int, int] = {}  # by its socket: the process id of a zombie
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                pid, answers = running.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                with socket.socket(fileno=os.dup(answers)) as answer, contextlib.suppress(OSError):
                    answer.send(NUMBER.pack(_exit_code(pid)))
                ended[answers] = pid
                poll.register(answers, 0)  # only its other end's closing is looked for
            elif ready in ended:
                poll.unregister(ready)
                os.waitpid(ended.pop(ready), 0)
                os.close(ready)
            else:
                request = _receive(control)
                if request is None:
                    return None
                asked, files = request
                pid = os.fork()
                if pid == 0:
                    return asked, files
                answers = files.pop()
                for file in files:
                    os.close(file)
                os.write(answers, NUMBER.pack(pid))
                handle = os.pidfd_open(pid)
                running[handle] = pid, answers
                poll.register(handle, select.POLLIN)


def _exit_code(pid: int) -> int:
    """Return the exit code of a process that has ended; it is negative after a signal."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _receive(control: int) -> tuple[Request, list[int]] | None:
    with socket.socket(fileno=os.dup(control)) as channel:
        text, files, _, _ = socket.recv_fds(channel, 1, 5)
    if not text:
        return None
    with os.fdopen(files.pop(0), "rb") as file:
        return Request(**pickle.load(file)), files


def _become(request: Request, files: list[int]) -> None:
    """Make of this process what a new one would be."""
    os.setsid()
    os.umask(request.umask)
    for number in range(3):
        os.dup2(files[number], number)
    _close_all_but(0, 1, 2)
    if request.on_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    time.tzset()
    setproctitle.setproctitle(" ".join(request.command))
    sys.orig_argv[:] = request.command
    sys.argv[:] = [sys.modules["pwserver.__main__"].__file__ or "", *request.command[3:]]
    sys.path.insert(0, request.folder)
    sys.stdin = _stream(0, "rb", sys.stdin.errors, False)
    sys.stdout = _stream(1, "wb", sys.stdout.errors, os.isatty(1))
    sys.stderr = _stream(2, "wb", sys.stderr.errors, True)

    sys.modules["pwserver.fork_server"].subprocess = _FirstOne()  # type: ignore[attr-defined]


def _close_all_but(*kept: int) -> None:
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in kept:
            with contextlib.suppress(OSError):  # the folder itself, which is closed again
                os.close(number)


class _FirstOne:
    """What a listener has in place of `subprocess` until it has started its first fork server."""

    DEVNULL = subprocess.DEVNULL

    def Popen(self, command: Sequence[str], pass_fds: Sequence[int], **_: object) -> object:
        """Fork this process; in the copy, run the program that starts with these arguments."""
        sys.modules["pwserver.fork_server"].subprocess = subprocess  # type: ignore[attr-defined]
        pid = os.fork()
        if pid:
            return SimpleNamespace(pid=pid, returncode=None)
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _close_all_but(0, 1, 2, *pass_fds)
            program = command.index("-c") + 1
            sys.argv[:] = ["-c", *command[program + 1 :]]
            exec(command[program], {})
        finally:
            os._exit(1)  # nothing of the listener is to run here


def _stream(number: int, mode: str, errors: str | None, by_line: bool) -> TextIOWrapper:
    file = open(number, mode, closefd=False)  # noqa: SIM115 - it stays open to the end
    return TextIOWrapper(file, sys.stdout.encoding, errors, line_buffering=by_line)


if __name__ == "__main__":
    _load()
    received = _next_request(int(sys.argv[1]))
    if received is None:
        os._exit(0)
    _become(*received)
    sys.modules["pwserver.__main__"].main()
