"""The listener's end of the fork server: the process from which all others are forked.

The fork server has every module loaded and nothing else: no key, no database, no client's socket. A
child that it forks runs within milliseconds and shares the memory of those modules with the others.
(`multiprocessing` has a fork server of its own, but that has three faults here: its address is a
path in the folder for temporary files, which other programs clean up; it imports from the current
folder; and a caller waits for each process, however long that takes.)

A request for a child is one message: the number of the request, and descriptors. The first
descriptor is a file in memory with the pickled arguments. The child reads it and the fork server
never does, so the fork server never has a key. The answer comes later and is the child's process
id. Nothing here waits: the caller must check whether an answer is overdue.
"""

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pwserver.ipc import control_channel, receive_control, send_control
from pwserver.logs import Style
from pwserver.memory import SharedArray

READY = b"R"  # its modules are loaded
STARTED = struct.Struct("<cQQ")  # b"S", the number of a request, the process id
FAILED = b"F"  # it cannot go on; the reason follows

LISTENERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""What the listener alone acts on."""

_BOOT = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "import pwserver.protection as p; p.protect_memory(); "
    "import workers.fork_server as s; s.main()"
)


def pack(target: Callable[..., None], arguments: Sequence[Any]) -> tuple[BinaryIO, list[int]]:
    """Return a file in memory with a call in it, and the descriptors that belong to it.

    The arguments may hold sockets and shared arrays, wherever in them.
    """
    file = os.fdopen(os.memfd_create("pwserver"), "w+b")
    pickler = _Pickler(file)
    pickler.dump((target, tuple(arguments)))
    file.seek(0)
    return file, pickler.descriptors


def unpack(file: BinaryIO, descriptors: Sequence[int]) -> tuple[Callable[..., None], Sequence[Any]]:
    """Return the call that `pack` has put into a file, given its descriptors in this process."""
    target, arguments = _Unpickler(file, descriptors).load()
    return target, arguments


class _Pickler(pickle.Pickler):
    """Pickles a socket or a shared array as an index into a list of descriptors."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.descriptors: list[int] = []

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if not isinstance(obj, socket.socket | SharedArray):
            return None
        self.descriptors.append(obj.fileno())
        index = len(self.descriptors) - 1
        return (index,) if isinstance(obj, socket.socket) else (index, obj.code, obj.length)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, descriptors: Sequence[int]) -> None:
        super().__init__(file)
        self._descriptors = descriptors

    def persistent_load(self, pid: Any) -> socket.socket | SharedArray:
        descriptor = self._descriptors[pid[0]]
        if len(pid) == 1:
            return socket.socket(fileno=descriptor)
        return SharedArray(pid[1], pid[2], descriptor)


class ForkServer:
    """A fork server, and the requests that it has not answered yet."""

    def __init__(
        self,
        modules: Sequence[str],
        style: Style = Style(),  # noqa: B008
        log_copy: socket.socket | None = None,
    ) -> None:
        """Start one, which loads the modules; requests may be made at once.

        `style` is that of the log lines of all children. They send a copy of each to `log_copy`.

        Raises OSError where the system has no room for another process.
        """
        self.ready = False
        self.failure = ""
        self._asked: deque[float] = deque()  # when, for each request that has no answer
        self._last_answer_at = 0.0
        self._channel, theirs = control_channel()
        with theirs:
            flags = ["-P"]  # the current folder is nowhere that modules are looked for
            if sys.flags.ignore_environment:
                flags.append("-E")
            passed = [theirs.fileno()]
            if log_copy is not None:
                passed.append(log_copy.fileno())
            copy = str(passed[-1]) if log_copy is not None else ""
            texts = [str(passed[0]), ",".join(modules), ",".join(style), copy]
            command = [sys.executable, *flags, "-c", _BOOT, *texts, *_module_folders()]
            # It starts with these signals blocked, and ignores them before it unblocks them: a
            # terminal sends them to every process.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, LISTENERS_SIGNALS)
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed)
            except BaseException:
                self._channel.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._handle = os.pidfd_open(self._process.pid)

    def fileno(self) -> int:
        """Return the descriptor on which its answers arrive."""
        return self._channel.fileno()

    def request(
        self, number: int, target: Callable[..., None], arguments: Sequence[Any], now: float
    ) -> None:
        """Ask for a child that calls `target`. Raises OSError where that cannot be done now."""
        file, descriptors = pack(target, arguments)
        with file:
            send_control(self._channel, b"%d" % number, [file.fileno(), *descriptors])
        self._asked.append(now)

    def answers(self, now: float) -> Iterator[tuple[int, int]]:
        """Yield number and process id of every child that was started.

        Raises EOFError where the fork server is gone.
        """
        while (message := receive_control(self._channel)) is not None:
            text = message[0]
            self._last_answer_at = now
            if not text:
                raise EOFError
            if text == READY:
                self.ready = True
            elif text[:1] == FAILED:
                self.failure = text[1:].decode(errors="replace")
            else:
                _, number, pid = STARTED.unpack(text)
                self._asked.popleft()
                yield number, pid

    def unanswered_s(self, now: float) -> float:
        """Return for how long it has owed an answer and said nothing."""
        return now - max(self._asked[0], self._last_answer_at) if self._asked else 0.0

    def end(self) -> None:
        """End it at once; the children live on. It is left to be reaped."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        os.close(self._handle)
        self._process.returncode = -signal.SIGKILL  # `Popen` is not to reap it: see `reaped`

    def reaped(self) -> bool:
        """Reap it if it has ended; return whether it is no more."""
        try:
            return os.waitpid(self._process.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True


def _module_folders() -> list[str]:
    """Return where modules are looked for: what this process has, less the current folder.

    The folder of this package comes first where it is not installed, as in a source tree.
    """
    own = str(Path(__file__).resolve().parents[1])
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    return folders if own in folders else [own, *folders]
